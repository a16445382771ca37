"""Trial of Apache Arrow Flight; layerwise itself needs no pyarrow."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import flight
from tests.integration.processes import ROOT


def test_without_pyarrow_the_benchmark_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from benchmarks.__main__ import main; sys.exit(main(['flight', '--rounds', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert done.stderr.strip() == f"benchmarks: pyarrow: not found; pip install pyarrow=={flight.PYARROW}"


@pytest.mark.slow  # a master or a server, and a client, for seconds each
@pytest.mark.parametrize("name", ["layerwise", "flight"])
def test_a_way_carries_out_every_operation(name: str, tmp_path: Path) -> None:
    if name == "flight":
        pytest.importorskip("pyarrow")
    # The clients check versions, values and echoes. A shard of 3 MiB travels in several pieces.
    cases = [flight.Case(case.what, 4 << 10, 2) for case in flight.CASES.values()]
    cases += [flight.Case(what, 3 << 20, 2) for what in ("push", "pull", "boundary")]
    with ExitStack() as stack:
        way = flight.Way(name, tmp_path, stack)
        for case in cases:
            assert len(way.seconds(case)) == case.repeats


def test_flight_is_too_slow_below_nine_tenths_of_our_speed_in_a_deciding_case() -> None:
    def row(speed: float, decides: bool = True) -> dict[str, object]:
        return {"decides": decides, "speed_in_ours": {"flight": {"median": speed}}}

    rows = {"slow": row(0.89), "enough": row(0.9), "beside": row(0.1, decides=False)}
    assert flight.below_reach(rows) == ["slow"]


def test_the_page_of_the_decision_has_the_tables_of_the_last_run() -> None:
    page = (ROOT / "docs" / "decisions" / "flight.md").read_text(encoding="utf-8")
    assert all(table in page for table in flight.last_tables())
