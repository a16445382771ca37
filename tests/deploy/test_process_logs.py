"""deploy.runs.process_logs: the log of a process that writes and writes stays bounded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.config import files
from deploy.comparison.compare import ComparisonRun
from deploy.comparison.variants import Comparison, Variant
from deploy.engines.cluster import Cluster
from deploy.engines.local import LocalEngine
from deploy.runs import process_logs
from deploy.runs.directory import RunDirectory
from deploy.runs.process_logs import bound_log, last_line, open_log

WRITER = """
import sys
for n in range(1000):
    print(f"line {n}", flush=True)
    if n % 100 == 99:
        sys.stdin.readline()
"""

TALKING_DATA = """
import sys, time
import numpy as np

def load():
    print("a long line of a talking function " * 100)
    sys.stdout.flush()
    time.sleep(1)
    rows = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    labels = np.arange(64) % 2
    return rows, labels, rows, labels
"""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_logs, "MOST_BYTES", 800)
    monkeypatch.setattr(process_logs, "FIRST_BYTES", 100)
    monkeypatch.setattr(process_logs, "NEWEST_BYTES", 300)


def test_a_log_under_writing_keeps_its_first_and_newest_part(tmp_path: Path) -> None:
    path = tmp_path / "slave-1.log"
    with open_log(path) as output:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=output, text=True
        )
    assert process.stdin
    for hundred in range(10):
        while last_line(path) != f"line {100 * hundred + 99}":
            assert process.poll() is None
        bound_log(path)
        assert path.stat().st_size <= 800
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.wait(20) == 0
    process.stdin.close()
    lines = path.read_text().splitlines()
    assert lines[:5] == [f"line {n}" for n in range(5)]
    assert lines[-20:] == [f"line {n}" for n in range(980, 1000)]
    assert "bytes cut out: the log had become" in "".join(lines)


def test_a_cluster_bounds_the_logs_of_its_processes(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    cluster = Cluster(LocalEngine(directory, 1), directory, 1)
    slave = cluster._plan_slave()
    slave.ended, slave.restart_at = True, float("inf")
    slave.order.log.write_text("x\n" * 1000)
    cluster.check()
    assert 0 < slave.order.log.stat().st_size <= 800


def test_a_comparison_bounds_the_logs_of_its_runs(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(TALKING_DATA)
    values = [f"data.dataset={tmp_path / 'data.py'}:load", "cluster.profile=synchronous", "run.batches=2"]
    variant = Variant("loud", "loud", files.load(None, values))
    assert ComparisonRun(Comparison("c", 1, [variant]), "synchronous", 1, tmp_path / "out").run()
    log = tmp_path / "out" / "loud" / "seed-0.log"
    assert 0 < log.stat().st_size <= 2000
    assert "bytes cut out: the log had become" in log.read_text()


def test_a_log_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    bound_log(tmp_path / "none.log")
    assert "cannot be read" in last_line(tmp_path / "none.log")
