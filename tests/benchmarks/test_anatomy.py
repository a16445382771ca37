"""Where a step's time goes: its parts, the table, and a small run."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import anatomy, timed
from benchmarks.cluster import DIGITS

LAYER: dict[str, Any] = {
    "layer": 1, "steps": 10, "microseconds": 1000,
    "parts": {
        "forward": [300, 290], "backward": [500, 480], timed.STEP: [850, 800], timed.EVENT: [100, 1],
    },
    "threads": {"sender": 20, "network": 30}, "waiting": 40,
}  # fmt: skip


def test_a_step_is_its_parts_and_the_rest() -> None:
    lines = anatomy.table({"light": {"layers": {"1": LAYER}, "master_microseconds": 70}}).splitlines()
    assert lines[0] == "| microseconds a step | light, layer 1 |"
    for line in (
        "| forward | 300 (290) |",
        "| M: learns | - |",
        "| the rest of a step | 50 (30) |",
        "| waits for a message | 100 (1) |",
        "| **from step to step** | **1,000** |",
        "| waiting, as the metrics count it | 40 |",
        "| beside it, sender: encodes h and delta | 20 |",
        "| beside it, the master | 70 |",
    ):
        assert line in lines


def test_a_clock_adds_up_what_a_part_takes_from_when_it_begins() -> None:
    clock = timed.Clock()
    slept = clock.timed("sleep", time.sleep)
    slept(0.05)
    clock.begin()
    slept(0.02)
    slept(0.02)
    told = clock.told(2)
    wall, cpu = told["parts"]["sleep"]
    assert 20_000 <= wall < 50_000
    assert cpu < wall
    assert told["microseconds"] >= wall


def test_threads_are_told_by_name() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="sender")
    thread.start()
    try:
        assert {"sender", "MainThread"} <= set(timed.thread_seconds())
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_run_is_taken_apart() -> None:
    settings = (*DIGITS["mlp"], "run.batch_size=64", "run.batches=60")
    row = anatomy.measured("basic", settings)
    assert set(row["layers"]) == {"1", "2"}
    assert set(row["layers"]["1"]["parts"]) == {name for _, _, name in timed.PARTS} | {timed.STEP}
    for layer in row["layers"].values():
        wall = {name: spent[0] for name, spent in layer["parts"].items()}
        parts = sum(wall[name] for name in wall if name not in (timed.STEP, timed.EVENT))
        assert 0 < parts <= wall[timed.STEP] <= layer["microseconds"]
    assert row["master_microseconds"] > 0


def test_the_page_on_performance_has_the_last_table() -> None:
    if not anatomy.RESULTS.exists():
        pytest.skip("python -m benchmarks anatomy has not been run")
    page = Path(__file__).parents[2] / "docs" / "performance.md"
    assert anatomy.last_table() in page.read_text(encoding="utf-8")
