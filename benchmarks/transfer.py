"""Push and pull of three sizes: layerwise against a raw TCP stream, torch.distributed.rpc and gloo.

`python -m benchmarks transfer` writes results/transfer.json. Every way is two processes on this machine
without other work; the ways take turns, round by round. Pushes of layerwise are applied to a shard in a state
directory and acknowledged; the peers' are received and acknowledged. A ratio is taken within a round, and
given as median and quartiles over the rounds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import psutil
import torch

from benchmarks.spread import spread
from common import strict_json
from common.cores import count_cores
from common.lifecycle import PARENT
from deploy.certificates.folders import MASTER, slave_name

Cases = dict[str, dict[str, dict[str, dict[str, float]]]]

RESULT = Path(__file__).parent / "results" / "transfer.json"
SIZES = {"4 KiB": 4 << 10, "1 MiB": 1 << 20, "64 MiB": 64 << 20}
# Repeats of each way in each round: enough that one hiccup does not change the median.
REPEATS = {"4 KiB": 60, "1 MiB": 20, "64 MiB": 4}
# torch_rpc is torch.distributed.rpc with its defaults, which use shared memory on one machine.
WAYS = ("layerwise", "tcp", "torch_rpc", "torch_rpc_tcp", "gloo")
ROUNDS = 9


class CommandProcess:
    """A process that takes orders on standard input, until `close` ends it."""

    def __init__(self, *command: str) -> None:
        self._ends_with_its_input = command[0] != "deploy.cli"
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"OMP_NUM_THREADS": "1", PARENT: str(os.getpid())},
        )

    def send_order(self, line: str) -> None:
        """Write an order, a line, to the process."""
        stdin = cast(IO[str], self._process.stdin)
        stdin.write(line + "\n")
        stdin.flush()

    def read_line(self) -> str:
        """Return the next line of the process' output."""
        line = cast(IO[str], self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return line.strip()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the process, user and system."""
        used = psutil.Process(self.pid).cpu_times()
        return float(used.user + used.system)

    def resident_bytes(self) -> int:
        """Return the resident memory of the process."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def close(self) -> None:
        """End the process: close the input, then terminate, then kill."""
        with suppress(BrokenPipeError):
            cast(IO[str], self._process.stdin).close()
        if self._ends_with_its_input:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(3)
        self._process.kill()
        self._process.wait()
        cast(IO[str], self._process.stdout).close()


class ProcessPair:
    """Server and client process of a way.

    Args:
        name: one of WAYS.
        folder: for the master's files, of this pair alone.
        stack: ends the processes.
        certificates: folders as `layerwise certificates` makes them, for TLS; None: in the clear.
    """

    def __init__(self, name: str, folder: Path, stack: ExitStack, certificates: Path | None = None) -> None:
        def start(*command: str) -> CommandProcess:
            process = CommandProcess(*command)
            stack.callback(process.close)
            return process

        own, peer = ([str(certificates / each)] if certificates else [] for each in (MASTER, slave_name(1)))
        address = str(folder / f"{name}.rendezvous")
        if name == "layerwise":
            (folder / "run.toml").touch()
            state = str(folder / "state")
            self._server = start("deploy.cli", "master", str(folder / "run.toml"), "--listen", "127.0.0.1:0",
                                 "--state-dir", state, *(["--tls", *own] if own else []),
                                 # Long heartbeats: a slave's health is not measured, even on a crowded
                                 # machine.
                                 "--set", "cluster.heartbeat_seconds=10")  # fmt: skip
            address = self._server.read_line().partition("listening on ")[2].partition(",")[0]
        else:
            self._server = start(
                "benchmarks.endpoints", name, "server", "127.0.0.1:0" if name == "tcp" else address, *own
            )
            address = self._server.read_line() if name == "tcp" else address
        self._client = start("benchmarks.endpoints", name, "client", address, *peer)
        self._server_takes_orders = name != "layerwise"

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the two processes."""
        return self._server.cpu_seconds() + self._client.cpu_seconds()

    def seconds(self, what: str, nbytes: int, repeats: int) -> list[float]:
        """Run an order, and return the seconds of every repeat."""
        order = f"{what} {nbytes} {repeats}"
        if self._server_takes_orders:
            self._server.send_order(order)
        self._client.send_order(order)
        seconds: list[float] = json.loads(self._client.read_line())
        return seconds


@dataclass
class Rounds:
    """Measurements of a way in a case: every round's median milliseconds, and CPU seconds of the two ends."""

    milliseconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0


def measure(
    ways: Mapping[str, ProcessPair], sizes: Iterable[str] = SIZES, rounds: int = ROUNDS
) -> dict[str, dict[str, Rounds]]:
    """Measure pushes and pulls of sizes by every way, by turns; returns them by case and way."""
    cases: dict[str, dict[str, Rounds]] = {}
    for turn in range(rounds + 1):
        for size in sizes:
            for what in ("push", "pull"):
                for name, way in ways.items():
                    before = way.cpu_seconds()
                    seconds = way.seconds(what, SIZES[size], REPEATS[size])
                    # The first round warms every process up.
                    if turn:
                        measured = cases.setdefault(f"{what} {size}", {}).setdefault(name, Rounds())
                        measured.milliseconds.append(1e3 * statistics.median(seconds))
                        measured.cpu_seconds += way.cpu_seconds() - before
    return cases


def summarize(measurements: dict[str, dict[str, Rounds]]) -> dict[str, object]:
    """Compute times, rates, and every peer's time over layerwise' (above 1, layerwise is faster)."""
    cases = {}
    for case, by_way in measurements.items():
        size = case.partition(" ")[2]
        nbytes, count = SIZES[size], ROUNDS * REPEATS[size]
        rounds = {name: each.milliseconds for name, each in by_way.items()}
        ours = rounds["layerwise"]
        cases[case] = {
            "milliseconds": {name: spread(times) for name, times in rounds.items()},
            "cpu_milliseconds": {
                name: round(1e3 * each.cpu_seconds / count, 3) for name, each in by_way.items()
            },
            "gigabytes_per_second": {
                name: round(nbytes / statistics.median(times) / 1e6, 3) for name, times in rounds.items()
            },
            "speed_relative_to": {
                name: spread([peer / own for peer, own in zip(times, ours, strict=True)])
                for name, times in rounds.items()
                if name != "layerwise"
            },
        }
    return {
        "machine": {"cores": count_cores(), "python": platform.python_version(), "torch": torch.__version__},
        "rounds": ROUNDS,
        "cases": cases,
    }


def table(cases: Cases) -> str:
    """Format median milliseconds (quartiles) of every way, with layerwise' speed-up in brackets."""
    lines = [f"{'':12}" + "".join(f"{name:>30}" for name in WAYS)]
    for case, numbers in cases.items():
        cells = []
        for name, t in numbers["milliseconds"].items():
            ratio = numbers["speed_relative_to"].get(name)
            speed_up = f" [{ratio['median']:.2f}]" if ratio else ""
            cells.append(f"{t['median']:.3f} ({t['p25']:.3f}-{t['p75']:.3f}){speed_up}")
        lines.append(f"{case:12}" + "".join(f"{cell:>30}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write the results."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        result = summarize(measure({name: ProcessPair(name, folder, stack) for name in WAYS}))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(strict_json.encode(result, indent=2) + "\n")
    print(table(result["cases"]))  # type: ignore[arg-type]
