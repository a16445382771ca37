"""Apache Arrow Flight against our own data plane and raw TCP: pushes, pulls and the relay's boundary stream.

`python -m benchmarks flight` writes results/flight.json and needs pyarrow, which layerwise does not. Both
masters are real: leases, NaN check, commit records and mapped files. The ways take turns, round by round; a
ratio is taken within a round, and is above 1 where a way is faster than ours. Two runs follow each other: the
masters give way to other work on the machine, as ever; then both are scheduled as ordinary processes.
`benchmarks.flight_promises` tries the promises of the data plane. docs/decisions/flight.md has the decision.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psutil

from benchmarks import records
from benchmarks.spread import format_spread, spread
from benchmarks.transfer import CommandProcess, Rounds
from common.errors import RefusedError

RESULT = Path(__file__).parent / "results" / "flight.json"
PYARROW = "26.0.0"
MIB = 1 << 20
# Leases without an end, and no snapshot between two rounds, for both masters.
SETTINGS = (
    "cluster.heartbeat_seconds=86400",
    "cluster.snapshot_seconds=86400",
    "cluster.profile=light",
    "network.layers=2",
)
# Flight is chosen only at this speed, relative to ours, in every deciding case.
REACH = 0.9


@dataclass(frozen=True)
class Case:
    """Row of the table: operation, bytes, repeats in a round, and whether the row decides."""

    what: str
    nbytes: int
    repeats: int
    decides: bool = True


CASES = {
    "push 64 MiB": Case("push", 64 * MIB, 4),
    "pull 64 MiB": Case("pull", 64 * MIB, 4),
    "push 4 KiB": Case("push", 4 << 10, 60),
    "pull 4 KiB": Case("pull", 4 << 10, 60),
    "boundary 4 KiB": Case("boundary", 4 << 10, 60),
    "boundary 1 MiB": Case("boundary", MIB, 20),
    "push 4 KiB, a call each": Case("push_call", 4 << 10, 60, decides=False),
    # Every pull of ours is a call, here too.
    "pull 4 KiB, Flight's in an open call": Case("pull_open", 4 << 10, 60, decides=False),
}


class Way:
    """Processes of a way: a server, a client that takes orders, and an echo if the server is a master."""

    def __init__(self, name: str, folder: Path, stack: ExitStack) -> None:
        def start(*command: str) -> CommandProcess:
            process = CommandProcess(*command)
            stack.callback(process.close)
            return process

        self.name = name
        if name == "tcp":
            self.server = start("benchmarks.endpoints", "tcp", "server", "127.0.0.1:0")
            self._client = start("benchmarks.endpoints", "tcp", "client", self.server.read_line())
            self._processes = [self.server, self._client]
            return
        if name == "layerwise":
            (folder / "run.toml").touch()
            settings = [part for setting in SETTINGS for part in ("--set", setting)]
            self.server = start("deploy.cli", "master", str(folder / "run.toml"), "--listen", "127.0.0.1:0",
                                "--state-dir", str(folder / "state"), *settings)  # fmt: skip
            address = self.server.read_line().partition("listening on ")[2].partition(",")[0]
        else:
            self.server = start("benchmarks.flight_server", *SETTINGS)
            address = self.server.read_line()
        module = f"benchmarks.{'flight_own' if name == 'layerwise' else 'flight_arrow'}"
        self._client = start(module, "client", address)
        self._client.read_line()
        # The second slave to join trains layer 2.
        echo = start(module, "echo", address)
        echo.read_line()
        self._processes = [self.server, self._client, echo]

    def takes(self, case: Case) -> bool:
        """Whether the way has a case; raw TCP has pushes and pulls alone."""
        return self.name != "tcp" or case.what in ("push", "pull")

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the processes."""
        return sum(process.cpu_seconds() for process in self._processes)

    def seconds(self, case: Case) -> list[float]:
        """Measure a case, and return the seconds of every repeat."""
        order = f"{case.what} {case.nbytes} {case.repeats}"
        if self.name == "tcp":
            self.server.send_order(order)
        self._client.send_order(order)
        seconds: list[float] = json.loads(self._client.read_line())
        return seconds


Measurements = dict[str, dict[str, Rounds]]


def measure(rounds: int, ordinary: bool) -> dict[str, Any]:
    """Measure every case in every way, by turns, and the masters' memory and threads.

    Args:
        rounds: number of measured rounds, after a round to warm up.
        ordinary: schedule the masters' threads as those of ordinary processes.
    """
    measurements: Measurements = {label: {} for label in CASES}
    load, began = os.getloadavg()[0], time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways = [Way(name, folder, stack) for name in ("layerwise", "tcp", "flight")]
        masters = {way.name: psutil.Process(way.server.pid) for way in ways if way.name != "tcp"}
        idle = {name: _size(master) for name, master in masters.items()}
        if ordinary:
            for master in masters.values():
                _schedule_ordinarily(master)
        for turn in range(rounds + 1):
            for label, case in CASES.items():
                # Alternate, so that no way always follows the one that works most.
                for way in ways if turn % 2 else ways[::-1]:
                    if way.takes(case):
                        row = measurements[label].setdefault(way.name, Rounds())
                        _measure_round(way, case, row if turn else Rounds())
        after = {name: _size(master) for name, master in masters.items()}
    rows = summarize(measurements, rounds)
    return {
        "rounds": rounds,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
        "rows": rows,
        "below_reach": below_reach(rows),
        "masters": {"idle, two slaves joined": idle, "after": after},
    }


def _measure_round(way: Way, case: Case, row: Rounds) -> None:
    before = way.cpu_seconds()
    row.milliseconds.append(1e3 * statistics.median(way.seconds(case)))
    row.cpu_seconds += way.cpu_seconds() - before


def _schedule_ordinarily(process: psutil.Process) -> None:
    """Undo `give_way` in a master, so that other work on the machine does not delay wake-ups."""
    for thread in process.threads():
        os.sched_setscheduler(thread.id, os.SCHED_OTHER, os.sched_param(0))


def _size(process: psutil.Process) -> dict[str, float]:
    return {"rss_mib": round(process.memory_info().rss / MIB, 1), "threads": process.num_threads()}


def summarize(measurements: Measurements, rounds: int) -> dict[str, Any]:
    """Compute time, CPU time, and speed relative to ours of every case."""
    rows: dict[str, Any] = {}
    for label, by_way in measurements.items():
        ours, count = by_way["layerwise"].milliseconds, rounds * CASES[label].repeats
        rows[label] = {
            "decides": CASES[label].decides,
            "milliseconds": {name: spread(row.milliseconds) for name, row in by_way.items()},
            "cpu_milliseconds": {
                name: round(1e3 * row.cpu_seconds / count, 3) for name, row in by_way.items()
            },
            "speed_in_ours": {
                name: spread([own / other for own, other in zip(ours, row.milliseconds, strict=True)])
                for name, row in by_way.items()
                if name != "layerwise"
            },
        }
    return rows


def below_reach(rows: dict[str, Any]) -> list[str]:
    """List the deciding cases in which Flight is too slow."""
    return [
        label
        for label, row in rows.items()
        if row["decides"] and row["speed_in_ours"]["flight"]["median"] < REACH
    ]


def costs() -> dict[str, Any]:
    """Measure pyarrow's import time, memory and installed size, beside grpcio and numpy."""
    code = (
        "import time, psutil, grpc, numpy\nmemory = psutil.Process().memory_info\n"
        "before, start = memory().rss, time.perf_counter()\nimport pyarrow.flight\n"
        "print(time.perf_counter() - start, memory().rss - before)"
    )
    imports = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(9)]
    paths = [Path(str(file.locate())) for file in distribution("pyarrow").files or []]
    installed = sum(path.stat().st_size for path in paths if path.exists())
    return {
        "import_seconds": spread([float(seconds) for seconds, _ in imports]),
        "import_rss_mib": spread([int(rss) / MIB for _, rss in imports], 1),
        "installed_mib": round(installed / MIB, 1),
    }


def promises() -> dict[str, Any]:
    """Run the experiments on promises."""
    command = [sys.executable, "-m", "benchmarks.flight_promises"]
    return dict(json.loads(subprocess.check_output(command, cwd=Path(__file__).parents[1], text=True)))


def table(rows: dict[str, Any]) -> str:
    """Format a run's rows."""
    heads = ("", "ours, ms", "Flight, ms", "Flight's speed in ours", "raw TCP's")
    lines = []
    for label, row in rows.items():
        times, speeds = row["milliseconds"], row["speed_in_ours"]
        tcp = format_spread(speeds["tcp"], ".2f") if "tcp" in speeds else "-"
        cells = [format_spread(times[name], ".3f") for name in ("layerwise", "flight")]
        lines.append([label, *cells, format_spread(speeds["flight"], ".2f"), tcp])
    return records.markdown(heads, lines)


def last_tables() -> tuple[str, str]:
    """Format the tables of the last two runs: masters that give way, then ordinary ones."""
    result = records.read(RESULT)
    return table(result["rows"]), table(result["ordinary"]["rows"])


def main(arguments: Sequence[str]) -> None:
    """Measure, print the tables and write the results.

    Raises:
        RefusedError: pyarrow is not installed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks flight", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="measured rounds of each run")
    parser.add_argument("--out", type=Path, default=RESULT, help="file for the results")
    chosen = parser.parse_args(arguments)
    if importlib.util.find_spec("pyarrow") is None:
        raise RefusedError(f"pyarrow: not found; pip install pyarrow=={PYARROW}")
    as_ever, ordinary = (measure(chosen.rounds, ordinary) for ordinary in (False, True))
    result = {
        "machine": {**records.machine(), "pyarrow": distribution("pyarrow").version},
        "reach": REACH,
        **as_ever,
        "ordinary": ordinary,
        "costs": costs(),
        "promises": promises(),
    }
    records.write(chosen.out, result)
    print(table(as_ever["rows"]), table(ordinary["rows"]), sep="\n\n")
