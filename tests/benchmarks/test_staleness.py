"""The table of the staleness rules."""

from __future__ import annotations

from benchmarks import staleness
from tests.integration.processes import ROOT


def test_the_page_of_results_has_the_table_of_the_last_run() -> None:
    assert staleness.last_table() in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
