"""Profiles on links: a run across namespaces, and the table of results."""

from __future__ import annotations

import pytest

from benchmarks import links, namespaces
from benchmarks.links import DIGITS, Case
from common.errors import RefusedError
from tests.integration.processes import ROOT

ROW = {
    "link": "100 Mbit/s", "profile": "light", "unlock": "update", "batches": 300, "test_error_percent": 4.567,
    "samples_per_second": 3012.3, "messages_bytes": {"received": 3_000_000, "sent": 2_000_000},
    "waiting_fraction": {"1": 0.031, "2": 0.05}, "idle_fraction": {"1": 0.5, "2": 0.25}, "lost_batches": 0,
    "links": {"master": [2_100_000, 3_100_000], "1": [1_000_000, 7_000_000], "2": [5_000_000, 4_000_000]},
}  # fmt: skip


@pytest.mark.slow
def test_in_basic_slaves_of_two_machines_reach_each_other_and_the_master_is_spared() -> None:
    try:
        namespaces.check()
    except RefusedError as error:
        pytest.skip(str(error))
    row = links.measure(Case("1 Gbit/s", "basic", "update", 60), DIGITS)
    assert row["test_error_percent"] < 50
    assert row["lost_batches"] == 0
    (sent, received), middle = row["links"]["master"], row["links"]["2"]
    # The middle layer alone takes and gives two tensors of 64 x 64 a batch, each way.
    assert min(middle) > 60 * 64 * 64 * 4
    assert sent < middle[1]
    assert row["messages_bytes"]["received"] < received
    assert row["samples_per_second"] > 0


def test_the_table_has_a_row_a_run_and_says_what_a_link_has_carried() -> None:
    loopback = {**ROW, "link": "loopback", "links": {"master": None, "1": None, "2": None}}
    head, _, first, second = links.table([ROW, loopback]).splitlines()
    assert head.startswith("| link | profile | unlock |")
    assert first == (
        "| 100 Mbit/s | light | `update` | 300 | 4.57 | 3,012 | 3 + 2 | 7 + 1, 4 + 5 | 3, 5 | 50, 25 |"
    )
    assert second.startswith("| loopback | ")
    assert "| 3 + 2 | - |" in second


def test_the_page_of_results_has_the_table_of_the_last_run() -> None:
    assert links.last_table() in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
