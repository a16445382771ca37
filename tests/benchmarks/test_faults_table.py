"""The table of the faults."""

from __future__ import annotations

from benchmarks import faults
from tests.faults.scenarios import SCENARIOS
from tests.integration.processes import ROOT


def test_a_row_has_both_profiles() -> None:
    row = {"detection_seconds": None, "recovery_seconds": 1.5, "lost_batches": 3, "test_error_percent": 6.5}
    found = {str(s): {**row, "batches": s.batches} for s in SCENARIOS}
    without = [f"none{' (long)' if s.long else ''}, {s.profile}, {s.method}" for s in SCENARIOS]
    found |= {name: {**row, "batches": 400} for name in without}
    line = "| slave of the top layer killed | `update` | 400, 400 | -, - | 1.50, 1.50 | 3, 3 | 6.50, 6.50 |"
    assert line in faults.table(found)


def test_the_page_of_faults_has_the_table_of_the_last_run() -> None:
    assert faults.last_table() in (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
