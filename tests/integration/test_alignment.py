"""Unlock `alignment` with real processes: layer K tells every layer of dL/dp, and slaves are killed."""

from __future__ import annotations

import json

import pytest

from tests.integration.processes import QUICK, Cli

SETS = [
    "network.options={widths=[32, 32, 32]}", "decoupling.unlock=alignment", "decoupling.alignment=direct",
    "cluster.misses=10",
]  # fmt: skip
DIRECT = [*QUICK, *(part for each in SETS for part in ("--set", each))]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["light", "basic"])
def test_four_layers_learn_by_direct_feedback_though_the_top_and_a_lower_slave_are_killed(
    cli: Cli, profile: str
) -> None:
    sets = ["--set", "run.batches=1500", "--set", f"cluster.profile={profile}"]
    process = cli.start("train", *DIRECT, *sets, "--run-dir", "run", "--json")
    cli.wait_for(process, "test error", "stderr")
    for place in (3, 1):
        cli.of_kind("slave")[place].kill()
        cli.wait_for(process, f"slave-{place + 1} was killed by signal 9; restarting it", "stderr")
        cli.wait_for(process, "test error", "stderr")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    summary = json.loads(out)
    assert (summary["layers"], summary["unlock"], summary["restarts"]) == (4, "alignment", 2)
    assert summary["test_error_percent"] < 20
    assert "refused" not in errors
