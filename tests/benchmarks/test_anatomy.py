"""Where a step's time goes: its parts, the table, and a small run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from benchmarks import anatomy, profiler, timing
from benchmarks.cluster import DIGITS
from common.errors import RunFailedError

LAYER: dict[str, Any] = {
    "layer": 1, "steps": 10, "microseconds": 1000,
    "parts": {
        "forward": [300, 290], "backward": [500, 480], timing.STEP: [850, 800], timing.EVENT: [100, 1],
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
    clock = timing.Clock()
    slept = clock.time_calls("sleep", time.sleep)
    slept(0.05)
    clock.begin()
    slept(0.02)
    slept(0.02)
    report = clock.report(2)
    wall, cpu = report["parts"]["sleep"]
    assert 20_000 <= wall < 50_000
    assert cpu < wall
    assert report["microseconds"] >= wall


def test_threads_are_told_by_name() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="sender")
    thread.start()
    try:
        assert {"sender", "MainThread"} <= set(timing.thread_seconds())
    finally:
        done.set()
        thread.join()


RAW = """\
thread (12): MainThread;run (slave/session.py:1);step (common/fused.py:9);_adagrad (common/fused.py:70) 30
thread (12): MainThread;run (slave/session.py:1);_adagrad (common/fused.py:70) 20
thread (13): sender;<module> (threading.py:1) 7
thread (13): sender;odd 1
"""


def test_what_is_seen_goes_to_the_innermost_function() -> None:
    found = profiler.shares(RAW, 1000)
    assert found == {
        "MainThread: _adagrad (common/fused.py)": 5.0,
        "sender: <module> (threading.py)": 0.7,
    }
    assert profiler.shares(RAW, 5000) == {"MainThread: _adagrad (common/fused.py)": 1.0}


def test_the_table_of_functions_has_the_most_first() -> None:
    found = {"light": {"1": {"a": 5.0, "b": 1.0}, "2": {"b": 70.0}}}
    assert anatomy.functions(found).splitlines() == [
        "| % of the time | light, layer 1 | light, layer 2 |",
        "| --- | --- | --- |",
        "| b | 1.0 | 70.0 |",
        "| a | 5.0 | - |",
    ]


def test_a_busy_process_is_seen_and_one_that_is_not_there_is_an_error() -> None:
    code = "import threading\ndef busy():\n print(flush=True)\n while True: pass\nbusy()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        found = profiler.sample({"1": process.pid}, 1)
        assert found["1"]["MainThread: busy (<string>)"] > 20
    finally:
        process.kill()
        process.communicate()
    with pytest.raises(RunFailedError, match="py-spy, process"):
        profiler.sample({"1": process.pid}, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_run_is_taken_apart() -> None:
    settings = (*DIGITS["mlp"], "run.batch_size=64", "run.batches=60")
    row = anatomy.measure("basic", settings)
    assert set(row["layers"]) == {"1", "2"}
    assert set(row["layers"]["1"]["parts"]) == {name for _, _, name in timing.PARTS} | {timing.STEP}
    for layer in row["layers"].values():
        wall = {name: spent[0] for name, spent in layer["parts"].items()}
        parts = sum(wall[name] for name in wall if name not in (timing.STEP, timing.EVENT))
        assert 0 < parts <= wall[timing.STEP] <= layer["microseconds"]
    assert row["master_microseconds"] > 0
