"""What TLS costs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import tls, transfer
from benchmarks.transfer import ProcessPair, Rounds
from deploy.certificates import making


def test_the_ratios_are_shares_of_the_speed_within_a_round() -> None:
    ours, raw, *clear = tls.WAYS
    measured = {"push 64 MiB": {ours: Rounds([200.0, 100.0]), raw: Rounds([100.0, 80.0])}}
    measured["push 64 MiB"] |= {name: Rounds([50.0, 50.0]) for name in clear}
    of = tls.summarize(measured)["push 64 MiB"]["of"]
    assert of[raw] == {"p25": 0.575, "median": 0.65, "p75": 0.725}
    rates = {"clear": [100.0, 200.0], "tls": [97.0, 198.0]}
    assert tls.ratio(rates)["median"] == 0.98


def test_the_two_ways_over_tls_agree_on_one_cipher(tmp_path: Path) -> None:
    making.make(tmp_path / "tls", making.plan([], slaves=1), None, days=1)
    assert tls.agreed_cipher(tmp_path / "tls") == "TLSv1.3 TLS_AES_256_GCM_SHA384"


@pytest.mark.slow  # a master or a server, and a client, for seconds each
@pytest.mark.parametrize("program", ["layerwise", "tcp"])
def test_a_way_over_tls_pushes_and_pulls(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making.make(tmp_path / "tls", making.plan([], slaves=1), None, days=1)
    monkeypatch.setattr(transfer, "SIZES", {"64 MiB": 3 << 20})
    with ExitStack() as stack:
        pair = ProcessPair(program, tmp_path, stack, tmp_path / "tls")
        measured = transfer.measure({"pair": pair}, ["64 MiB"], rounds=1)
    assert {case: len(ways["pair"].milliseconds) for case, ways in measured.items()} == {
        "push 64 MiB": 1,
        "pull 64 MiB": 1,
    }
