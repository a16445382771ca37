"""Data that do not fit in memory, through real processes."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.integration.processes import QUICK, Cli

MIB = 1 << 20
ROW_BYTES = 4096
# 20 GiB.
ROWS = 5 * MIB
MOST_GROWTH = 200 * MIB

DATA = """
import numpy as np
from pathlib import Path

FOLDER = Path(__file__).parent

def large():
    x = np.memmap(FOLDER / "x.bin", np.uint8, "r", shape=({rows}, {row_bytes}))
    y = np.memmap(FOLDER / "y.bin", np.uint8, "r")
    return x, y, x[:2000], y[:2000]

def small():
    return [np.array(array[:2000]) for array in large()]
"""
SETTINGS = (
    *QUICK, "--set", "run.batches=150", "--set", "network.options={widths=[16]}", "--set",
    "cluster.misses=20", "--json",
)  # fmt: skip


def write(folder: Path, rows: int = ROWS) -> None:
    """Write a sparse file of inputs, which takes no disk, and labels."""
    with (folder / "x.bin").open("wb") as file:
        file.truncate(rows * ROW_BYTES)
    (np.arange(rows, dtype=np.uint32) % 10).astype(np.uint8).tofile(folder / "y.bin")
    (folder / "own.py").write_text(DATA.format(rows=rows, row_bytes=ROW_BYTES))


def peaks(cli: Cli, function: str) -> dict[str, int]:
    """Train, and return the most memory that each process has held."""
    process = cli.start("train", "--set", f"data.dataset=own.py:{function}", *SETTINGS)
    peak: dict[str, int] = {}
    while process.poll() is None:
        for each in cli.processes():
            try:
                kind = each.cmdline()[4]
                status = Path(f"/proc/{each.pid}/status").read_text()
            except (OSError, IndexError, psutil.Error):
                continue
            if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
                peak[kind] = max(peak.get(kind, 0), int(found[1]) << 10)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read()
    return peak


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the system does not tell a peak by process"
)
def test_a_mapped_set_of_20_gib_leaves_every_process_small(cli: Cli) -> None:
    write(cli.folder)
    small, large = peaks(cli, "small"), peaks(cli, "large")
    assert set(small) == set(large) == {"train", "master", "slave"}
    grown = {kind: (large[kind] - small[kind]) // MIB for kind in small}
    assert max(grown.values()) < MOST_GROWTH // MIB, grown


PARQUET = """
import numpy as np
from pathlib import Path

FOLDER = Path(__file__).parent

def tables():
    return FOLDER / "train.parquet", FOLDER / "test.parquet"
"""


@pytest.mark.slow
def test_every_process_of_a_run_reads_parquet_files_that_are_rewritten_once(cli: Cli) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the optional package pyarrow is not installed")
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    for part, rows in {"train": 600, "test": 200}.items():
        x = rng.normal(size=(rows, 8)).astype(np.float32)
        columns = {"x": list(x), "y": (x[:, 0] > 0).astype(np.int64)}
        parquet.write_table(pyarrow.table(columns), cli.folder / f"{part}.parquet", row_group_size=100)
    (cli.folder / "own.py").write_text(PARQUET)
    own = ["--set", "data.dataset=own.py:tables", "--set", "network.options={widths=[16]}"]
    quick = [
        *QUICK,
        "--set",
        "run.batches=150",
        "--set",
        "network.layers=2",
        "--set",
        "decoupling.unlock=none",
    ]
    summary = cli.json("train", *own, *quick, "--run-dir", "run", "--json")
    assert summary["test_error_percent"] < 20
    cache = cli.folder / "cache" / "layerwise" / "parquet"
    assert [file.suffix for file in cache.iterdir()] == [".arrow", ".arrow"]
    assert cli.json("evaluate", "run", "--json")["test_loss"] == summary["test_loss"]
