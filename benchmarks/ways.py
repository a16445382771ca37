"""The ways to train one network that are compared: layerwise by the command line, and `benchmarks.rivals`.

A way is run from its processes' start to their end. On this machine, or with every process on a machine of
its own (`benchmarks.namespaces`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.links import ROOT, Cluster, Loopback, environment
from benchmarks.namespaces import Network
from benchmarks.slowing import Find, Held, slave_of
from common.errors import RunFailedError
from deploy.runs import metrics_of

Row = dict[str, Any]
# Test error in per cent by batches.
Curve = Sequence[Sequence[float]]

# Test error, in per cent, that curves are followed to: 97 % are right.
TARGET_PERCENT = 3.0
# Before a way's clock begins: what is made at a first step, and the filling of a chain, is not its rate.
WARM = 10
NEVER = 1_000_000
# Crowded cores are no failure.
OURS = ("cluster.misses=20",)


@dataclass(frozen=True)
class Hold:
    """One process of a way, held to a share of a core; None: only watched.

    Attributes:
        layer: from 1; of a rival, the rank from 1.
        allowed: of a core.
    """

    layer: int
    allowed: float | None = None


@dataclass(frozen=True)
class Job:
    """What every way does.

    Attributes:
        settings: of data and network, section.key=value.
        batch_size: B.
        batches: of the run.
        every: instead of its rate, the test error after every n batches; 0: the rate.
    """

    settings: tuple[str, ...]
    batch_size: int
    batches: int
    every: int = 0

    def sets(self, *more: str) -> list[str]:
        """On a command line."""
        own = (f"run.batch_size={self.batch_size}", f"run.batches={self.batches}")
        return [part for setting in (*self.settings, *own, *more) for part in ("--set", setting)]


@dataclass(frozen=True)
class Rival:
    """A way of `benchmarks.rivals`."""

    way: str
    processes: int = 2
    threads: int = 1
    microbatches: int = 4

    @property
    def name(self) -> str:
        """As results say it."""
        return f"{self.way}-{self.threads}" if self.way == "bp" else self.way

    def run(self, job: Job, network: Network | None = None, hold: Hold | None = None) -> Row:
        """What rank 0 says; where a process is held, its share too.

        Raises:
            RunFailedError: a process failed.
        """
        machines = network or Loopback()
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            ranks = [
                stack.enter_context(_process(command, folder / f"said-{rank}", self._environment(network)))
                for rank, command in enumerate(self._commands(job, machines, folder))
            ]
            find = _began(ranks[hold.layer - 1], folder / "began") if hold else None
            held = stack.enter_context(_holding(find, hold))
            out, _ = ranks[0].communicate()
            for rank, process in enumerate(ranks):
                _check(process.wait(), f"{self.name}, rank {rank}", folder / f"said-{rank}")
        return {**json.loads(out), **_share(held)}

    def _commands(self, job: Job, machines: Network | Loopback, folder: Path) -> Iterator[list[str]]:
        options = ["--threads", str(self.threads), "--microbatches", str(self.microbatches)]
        # As many layers as there are processes: the pipelines' stages.
        options += [*job.sets("network.layers=2"), "--every", str(job.every), "--warm", str(self._warm(job))]
        options += ["--target", str(TARGET_PERCENT)]
        for rank in range(self.processes):
            own = ["--began", str(folder / "began")] if rank == 0 else ["--rank", str(rank)]
            if self.processes > 1:
                own += ["--meet", str(folder / "meet")]
            inside = machines.inside(rank + 1)
            yield [*inside, sys.executable, "-m", "benchmarks.rivals", self.way, *own, *options]

    @staticmethod
    def _warm(job: Job) -> int:
        return min(WARM, job.batches // 2)

    def _environment(self, network: Network | None) -> dict[str, str]:
        # Else gloo looks for the interface by the host's name, which need not be on any.
        interface = "eth0" if network else "lo"
        return {**environment(), "OMP_NUM_THREADS": str(self.threads), "GLOO_SOCKET_IFNAME": interface}


@dataclass(frozen=True)
class Layerwise:
    """A cluster of ours.

    Attributes:
        more: settings that are not the defaults, section.key=value.
    """

    unlock: str
    profile: str
    layers: int = 2
    more: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As results say it."""
        return ", ".join([f"{self.unlock} {self.profile}", *(each.partition(".")[2] for each in self.more)])

    def run(self, job: Job, network: Network | None = None, hold: Hold | None = None) -> Row:
        """What came of it: of a curve that alone; where a process is held, its share too.

        Raises:
            RunFailedError: the run failed.
        """
        own = (
            f"network.layers={self.layers}",
            f"decoupling.unlock={self.unlock}",
            f"cluster.profile={self.profile}",
            f"run.evaluate_every={job.every or NEVER}",
            *self.more,
        )
        return self._on(network, job, own) if network else self._here(job, own, hold)

    def _here(self, job: Job, own: Sequence[str], hold: Hold | None) -> Row:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            command = [
                sys.executable,
                "-m",
                "deploy.cli",
                "train",
                "--json",
                "--run-dir",
                str(folder / "run"),
            ]
            command += job.sets(*OURS, *own)
            train = stack.enter_context(_process(command, folder / "said", environment()))
            find = slave_of(hold.layer, folder / "run" / "state") if hold else None
            held = stack.enter_context(_holding(find, hold))
            out, _ = train.communicate()
            _check(train.returncode, self.name, folder / "said")
            lines = metrics_of(folder / "run")
        if job.every:
            return {"curve": errors(lines)}
        return {**row(json.loads(out), lines), **_share(held)}

    def _on(self, network: Network, job: Job, own: Sequence[str]) -> Row:
        settings = job.sets(*OURS, *own)[1::2]
        with (
            tempfile.TemporaryDirectory() as folder,
            Cluster(network, Path(folder), settings, self.layers) as cluster,
        ):
            warm = cluster.stepped(min(WARM, job.batches // 2))
            cluster.trained()
            status = cluster.asked("status")
            error = cluster.asked("evaluate")["test_error_percent"]
        steps = {str(seat["layer"]): seat["telemetry"]["step_seconds"] for seat in status["seats"]}
        seconds = status["training_seconds"]
        return {
            "samples_per_second": rate_since(warm, status, job.batch_size),
            "test_error_percent": error,
            "master_share": round(status["counters"]["cpu_seconds"] / seconds, 4),
            "waiting_fraction": status["waiting_fraction"],
            "bottleneck": max(steps, key=lambda k: steps[k]),
        }


Way = Rival | Layerwise


def row(summary: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> Row:
    """What of a finished run's summary and metrics is compared."""
    beats = _beats(lines)
    seconds = summary["batches"] * summary["batch_size"] / summary["samples_per_second"]
    own = rates(beats, summary["batch_size"])
    known = [rate for rate in own.values() if rate]
    return {
        # The slowest layer is the pace of all. A run too short for that has what its summary says.
        "samples_per_second": min(known) if len(known) == len(own) else summary["samples_per_second"],
        "test_error_percent": summary["test_error_percent"],
        # Its start is counted too: it can only be less.
        "master_share": round(summary["cpu_seconds"]["master"] / seconds, 4),
        "waiting_fraction": summary["waiting_fraction"],
        "bottleneck": max(beats, key=lambda k: float(beats[k][-1]["step_seconds"])),
        "layer_rates": own,
    }


def rates(beats: Mapping[str, Sequence[Mapping[str, Any]]], batch_size: int) -> dict[str, float | None]:
    """Each layer's own samples a second, from a heartbeat after its first `WARM` steps to that of its last.

    None: it was too short for two heartbeats.
    """
    found: dict[str, float | None] = {}
    for layer, each in sorted(beats.items()):
        first = next((beat for beat in each if beat["steps"] >= WARM), each[-1])
        # What comes after the last step is no training.
        last = next(beat for beat in each if beat["steps"] == each[-1]["steps"])
        steps, seconds = last["steps"] - first["steps"], last["seconds"] - first["seconds"]
        found[layer] = round(steps * batch_size / seconds, 1) if seconds > 0 else None
    return found


def rate_since(then: Mapping[str, Any], now: Mapping[str, Any], batch_size: int) -> float:
    """Samples a second of the slowest layer between two statuses, the later one of a run that is over.

    What a seat had done by the earlier one is as old as its last heartbeat.
    """
    found: list[float] = []
    for before, after in zip(then["seats"], now["seats"], strict=True):
        began = then["training_seconds"] - before["lease_age"]
        steps = after["telemetry"]["steps"] - before["telemetry"]["steps"]
        found.append(steps * batch_size / (now["training_seconds"] - began))
    return round(min(found), 1)


def errors(lines: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """The curve of a run's metrics."""
    return [(each["batches"], each["test_error_percent"]) for each in lines if each["kind"] == "evaluation"]


def batches_to(curve: Curve, percent: float) -> float | None:
    """After how many batches the test error is `percent`, on the straight line between two evaluations.

    None: it never is. Of a curve that begins below, its first evaluation's.
    """
    before: Sequence[float] | None = None
    for batches, error in curve:
        if error <= percent:
            if before is None or before[1] <= error:
                return float(batches)
            part = (before[1] - percent) / (before[1] - error)
            return float(before[0] + part * (batches - before[0]))
        before = (batches, error)
    return None


def _beats(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Heartbeats by layer, in order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["kind"] == "heartbeat":
            found.setdefault(str(line["layer"]), []).append(line)
    return found


@contextmanager
def _process(
    command: Sequence[str], said: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A process whose errors go into a file; ended whatever happens."""
    with said.open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            text=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        assert process.stdout
        process.stdout.close()


def _check(code: int, who: str, said: Path) -> None:
    if code:
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise RunFailedError(f"{who} ended with {code}: {lines[-1] if lines else 'it said nothing'}")


def _began(process: subprocess.Popen[str], began: Path) -> Find:
    """A rival's process, once its clock has begun."""
    return lambda: psutil.Process(process.pid) if began.exists() else None


def _holding(find: Find | None, hold: Hold | None) -> Held | nullcontext[None]:
    return Held(find, hold.allowed) if find and hold else nullcontext()


def _share(held: Held | None) -> Row:
    return {"share": held.share} if held else {}
