"""Throughput of a master with 1 to 64 slaves that push and pull shards of 1 MiB without pause.

`python -m benchmarks scale` writes results/scale.json; `--table` prints the table of docs/performance.md. The
slaves compute nothing and load no torch (`benchmarks.light_slaves`): up to 8 processes, then several threads
in each. They share the machine with the master, so the rate is what both ends reach together. The table also
has the simulator's prediction for a master with a core of its own, from the measurement of one slave.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.transfer import CommandProcess
from common.config import files
from common.data import datasets
from common.models.resolution import resolve_with_torch
from deploy.simulation.driver import Driver

RESULTS = Path(__file__).parent / "results" / "scale.json"
SLAVES = (1, 2, 4, 8, 16, 32, 64)
PROCESSES = 8
NBYTES = 1 << 20
# Batches of each simulated slave.
TURNS = 1000


def measure(slaves: int, seconds: float) -> dict[str, Any]:
    """Measure a master with `slaves` slaves for `seconds`."""
    processes = min(slaves, PROCESSES)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def start(*command: str) -> CommandProcess:
            process = CommandProcess(*command)
            stack.callback(process.close)
            return process

        master = start(*_master(Path(folder), slaves))
        address = master.read_line().partition("listening on ")[2].partition(",")[0]
        each = [str(slaves // processes), str(NBYTES)]
        clients = [start("benchmarks.light_slaves", address, *each) for _ in range(processes)]
        for client in clients:
            client.read_line()
        before, began = master.cpu_seconds(), time.perf_counter()
        for client in clients:
            client.send_order(str(seconds))
        durations = [json.loads(client.read_line()) for client in clients]
        took, used = time.perf_counter() - began, master.cpu_seconds() - before
    pushes, pulls = ([each for result in durations for each in result[what]] for what in ("push", "pull"))
    return {"slaves": slaves, "processes": processes, **row(pushes, pulls, took, used)}


def _master(folder: Path, slaves: int) -> list[str]:
    """Return the command of a master with a layer for every slave."""
    (folder / "run.toml").touch()
    settings = [f"network.options={{widths={[8] * max(1, slaves - 1)}}}"]
    settings += [f"network.cuts={list(range(1, slaves))}", "cluster.misses=20"]
    command = ["deploy.cli", "master", str(folder / "run.toml"), "--listen", "127.0.0.1:0"]
    command += ["--state-dir", str(folder / "state"), "--log-level", "warning"]
    return [*command, *(part for setting in settings for part in ("--set", setting))]


def row(pushes: Sequence[float], pulls: Sequence[float], seconds: float, cpu: float) -> dict[str, Any]:
    """Summarize durations of pushes and pulls, given the whole time and the master's CPU time, in seconds."""
    count = len(pushes) + len(pulls)
    return {
        "mib_per_second": round(count * NBYTES / (1 << 20) / seconds, 1),
        "push_milliseconds": _percentiles(pushes),
        "pull_milliseconds": _percentiles(pulls),
        "master_cores": round(cpu / seconds, 3),
        "master_cpu_milliseconds": round(1e3 * cpu / count, 3),
    }


def predict(slaves: int, alone: Mapping[str, Any]) -> dict[str, float]:
    """Simulate `slaves` replicas of a layer, with a push and a fetch at every step.

    Args:
        slaves: number of slaves.
        alone: the row of one slave: durations of pushes and pulls, and the master's CPU time for each.
    """
    turn = 1e-3 * (alone["push_milliseconds"]["p50"] + alone["pull_milliseconds"]["p50"])
    settings = {
        "network.layers": 1,
        # With pushes of updates, a single replica would never fetch.
        "downpour.push": "gradient",
        "downpour.replicas": slaves,
        "downpour.n_push": 1,
        "downpour.n_fetch": 1,
        "run.batches": TURNS * slaves,
        "simulation.master_seconds": 1e-3 * alone["master_cpu_milliseconds"],
        "simulation.overhead_seconds": turn,
        "simulation.rate": 1e18,
        "simulation.bandwidth_bytes_per_second": 1e15,
        "simulation.latency_seconds": 0.0,
        "simulation.jitter": 0.0,
    }
    config = files.load(None, [f"{name}={value}" for name, value in settings.items()])
    dataset = datasets.of(config)
    driver = Driver(resolve_with_torch(config, dataset), dataset, trains=False)
    for _ in driver.run():
        pass
    # The simulated master takes no time for each slave's first version.
    count = driver.master.pushes + driver.master.pulls - slaves
    return {
        "mib_per_second": round(count * NBYTES / (1 << 20) / driver.seconds, 1),
        "master_cores": round(driver.master.servers[0].busy_seconds / driver.seconds, 3),
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": round(1e3 * float(p50), 2), "p99": round(1e3 * float(p99), 2)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows as a table."""
    heads = ["slaves", "processes", "MiB/s", "push ms, p50", "p99", "pull ms, p50", "p99", "master, cores"]
    heads += ["its CPU ms a MiB", "simulated, MiB/s", "master, cores"]
    lines: list[list[str]] = []
    for each in rows:
        push, pull = each["push_milliseconds"], each["pull_milliseconds"]
        lines.append(
            [
                *(str(each[name]) for name in ("slaves", "processes")),
                f"{each['mib_per_second']:,.0f}",
                *(f"{value:.1f}" for value in (push["p50"], push["p99"], pull["p50"], pull["p99"])),
                f"{each['master_cores']:.2f}",
                f"{each['master_cpu_milliseconds']:.2f}",
                f"{each['simulated']['mib_per_second']:,.0f}",
                f"{each['simulated']['master_cores']:.2f}",
            ]
        )
    return records.markdown(heads, lines)


def last_table() -> str:
    """Format the table of the last results.

    Raises:
        ConfigError: there are no results.
    """
    return table(records.read(RESULTS)["rows"])


def main(arguments: Sequence[str]) -> None:
    """Measure every number of slaves, print a line for every number, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration for each number of slaves")
    parser.add_argument("--table", action="store_true", help="print the table of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_table())
        return
    rows: list[dict[str, Any]] = []
    for slaves in SLAVES:
        row = measure(slaves, chosen.seconds)
        rows.append({**row, "simulated": predict(slaves, rows[0] if rows else row)})
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    result = {"machine": records.machine(), "nbytes": NBYTES, "seconds": chosen.seconds, "rows": rows}
    records.write(RESULTS, result)
