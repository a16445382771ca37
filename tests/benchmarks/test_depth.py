"""Steps to the same loss, counted from curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import depth
from benchmarks.depth import compare_steps, read_row
from common.errors import ConfigError
from tests.integration.processes import ROOT

BASE = {"variant": "back-propagation", "seed": 0, "curve": [[200, 3.0], [400, 2.0]]}


def test_steps_are_batches_by_micro_batches_to_the_loss_of_the_same_seed() -> None:
    rows = [
        BASE,
        {"variant": "a", "seed": 0, "curve": [[400, 3.0], [800, 2.0]]},
        {"variant": "b", "seed": 0, "curve": [[400, 3.0], [800, 2.9]]},
    ]
    # Back-propagation is at 2.5 after 300 steps, "a" after 600 batches, which are 300 of two and 600 of one.
    assert compare_steps(rows, {"a": 2, "b": 1}) == {"a": [1.0], "b": [None]}
    assert compare_steps(rows, {"a": 1, "b": 1})["a"] == [2.0]
    result = {"rows": rows, "micro_batches": {"a": 2, "b": 1}}
    assert depth.table(result).splitlines()[2:] == [
        "| a | 1.00 (1.00 to 1.00) | 1.00 |", "| b | not reached | - |",
    ]  # fmt: skip


def test_a_run_has_its_evaluations_alone_in_the_curve(tmp_path: Path) -> None:
    lines = [{"kind": "evaluation", "batches": 20, "test_loss": 4.56789}, {"kind": "heartbeat"}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert read_row("a", 1, tmp_path, 8)["curve"] == [[20, 4.5679]]


def test_what_is_missing_is_told() -> None:
    with pytest.raises(ConfigError, match="--text : give the file of a text"):
        depth.main([])
    with pytest.raises(ConfigError, match="no evaluations around step 300"):
        compare_steps([BASE | {"curve": [[400, 2.0]]}], {})


def test_the_page_of_results_has_the_last_table() -> None:
    result = json.loads(depth.RESULTS.read_text(encoding="utf-8"))
    assert depth.table(result) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
