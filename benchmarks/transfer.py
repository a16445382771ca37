"""Push and pull of three sizes: layerwise against one raw TCP stream, torch.distributed.rpc and gloo.

`python -m benchmarks transfer` writes results/transfer.json. Every way is two processes on this machine that
do nothing else; they take turns, round by round. layerwise' pushes are applied to a shard in a state
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
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import psutil
import torch

from benchmarks.spread import spread
from common.lifecycle import PARENT

Cases = dict[str, dict[str, dict[str, dict[str, float]]]]

RESULT = Path(__file__).parent / "results" / "transfer.json"
SIZES = {"4 KiB": 4 << 10, "1 MiB": 1 << 20, "64 MiB": 64 << 20}
# In each round, of each way: enough of them that a hiccup does not count.
REPEATS = {"4 KiB": 60, "1 MiB": 20, "64 MiB": 4}
# torch_rpc is torch.distributed.rpc as it is by default, which on one machine shares memory.
WAYS = ("layerwise", "tcp", "torch_rpc", "torch_rpc_tcp", "gloo")
ROUNDS = 9


class Process:
    """A process that takes orders on its standard input; ended whatever happens."""

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

    def say(self, line: str) -> None:
        """An order."""
        stdin = cast(IO[str], self._process.stdin)
        stdin.write(line + "\n")
        stdin.flush()

    def hear(self) -> str:
        """Its next line."""
        line = cast(IO[str], self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return line.strip()

    def cpu_seconds(self) -> float:
        """What it has used, user and system."""
        used = psutil.Process(self._process.pid).cpu_times()
        return float(used.user + used.system)

    def close(self) -> None:
        """End it: its input ends, then it is asked to, then it has to."""
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


class Way:
    """Both processes of one way."""

    def __init__(self, name: str, folder: Path, stack: ExitStack) -> None:
        def start(*command: str) -> Process:
            process = Process(*command)
            stack.callback(process.close)
            return process

        address = str(folder / f"{name}.rendezvous")
        if name == "layerwise":
            (folder / "run.toml").touch()
            state = str(folder / "state")
            self._server = start("deploy.cli", "master", str(folder / "run.toml"), "--listen", "127.0.0.1:0",
                                 "--state-dir", state,
                                 # What is measured is no slave's health, on however crowded a machine.
                                 "--set", "cluster.heartbeat_seconds=10")  # fmt: skip
            address = self._server.hear().partition("listening on ")[2].partition(",")[0]
        else:
            self._server = start(
                "benchmarks.endpoints", name, "server", "127.0.0.1:0" if name == "tcp" else address
            )
            address = self._server.hear() if name == "tcp" else address
        self._client = start("benchmarks.endpoints", name, "client", address)
        self._obeys = name != "layerwise"

    def cpu_seconds(self) -> float:
        """What both processes have used."""
        return self._server.cpu_seconds() + self._client.cpu_seconds()

    def seconds(self, what: str, nbytes: int, repeats: int) -> list[float]:
        """Of every repeat."""
        order = f"{what} {nbytes} {repeats}"
        if self._obeys:
            self._server.say(order)
        self._client.say(order)
        seconds: list[float] = json.loads(self._client.hear())
        return seconds


@dataclass
class Rounds:
    """Of one way in one case: each round's median milliseconds, and the CPU time of both ends in all."""

    milliseconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0


def measure() -> dict[str, dict[str, Rounds]]:
    """By what was done, and by the way."""
    found: dict[str, dict[str, Rounds]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways = {name: Way(name, folder, stack) for name in WAYS}
        for turn in range(ROUNDS + 1):
            for size, nbytes in SIZES.items():
                for what in ("push", "pull"):
                    for name, way in ways.items():
                        before = way.cpu_seconds()
                        seconds = way.seconds(what, nbytes, REPEATS[size])
                        # The first round warms every process up.
                        if turn:
                            rounds = found.setdefault(f"{what} {size}", {}).setdefault(name, Rounds())
                            rounds.milliseconds.append(1e3 * statistics.median(seconds))
                            rounds.cpu_seconds += way.cpu_seconds() - before
    return found


def summarized(found: dict[str, dict[str, Rounds]]) -> dict[str, object]:
    """Times, rates, and each peer's time in layerwise' (more than 1: layerwise is faster)."""
    cases = {}
    for case, by_way in found.items():
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
                name: spread([theirs / mine for theirs, mine in zip(times, ours, strict=True)])
                for name, times in rounds.items()
                if name != "layerwise"
            },
        }
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
        "rounds": ROUNDS,
        "cases": cases,
    }


def table(cases: Cases) -> str:
    """Median milliseconds (quartiles) of every way, and in brackets how much faster than it layerwise is."""
    lines = [f"{'':12}" + "".join(f"{name:>30}" for name in WAYS)]
    for case, numbers in cases.items():
        cells = []
        for name, t in numbers["milliseconds"].items():
            ratio = numbers["speed_relative_to"].get(name)
            shown = f" [{ratio['median']:.2f}]" if ratio else ""
            cells.append(f"{t['median']:.3f} ({t['p25']:.3f}-{t['p75']:.3f}){shown}")
        lines.append(f"{case:12}" + "".join(f"{cell:>30}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the result."""
    result = summarized(measure())
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result["cases"]))  # type: ignore[arg-type]
