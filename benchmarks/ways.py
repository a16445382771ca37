"""Ways to train a network, for comparison: layerwise by the command line, and `benchmarks.rivals`.

A way runs from its processes' start to their end, on this machine or with every process on a machine of its
own (`benchmarks.namespaces`).
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

from benchmarks.by_hand import ROOT, Loopback, ManualCluster, environment
from benchmarks.namespaces import Network
from benchmarks.records import quality
from benchmarks.slowing import CpuLimiter, Find, slave_of
from common.errors import RunFailedError
from deploy.runs.metrics import read_metrics

Row = dict[str, Any]
# Points (batches, test error in per cent).
Curve = Sequence[Sequence[float]]

# Test error, in per cent, up to which curves are measured: 97 % of the answers are right.
TARGET_PERCENT = 3.0
# Steps before a way's clock starts, so that first-step set-up and the filling of a pipeline do not count.
WARM = 10
NEVER = 1_000_000
# Tolerate late heartbeats: on crowded cores they are not failures.
OURS = ("cluster.misses=20",)


@dataclass(frozen=True)
class CpuLimit:
    """Limit of a process of a way to a share of a core; None: measure the share only.

    Attributes:
        layer: layer, from 1; of a rival, the rank plus 1.
        allowed: largest share of a core.
    """

    layer: int
    allowed: float | None = None


@dataclass(frozen=True)
class Job:
    """Training job of every way.

    Attributes:
        settings: settings of data and network, section.key=value.
        batch_size: B.
        batches: batches of the run.
        every: measure a curve, the test error every n batches; 0: measure the rate.
    """

    settings: tuple[str, ...]
    batch_size: int
    batches: int
    every: int = 0

    def sets(self, *more: str) -> list[str]:
        """Return the options of a command line for own and further settings."""
        own = (f"run.batch_size={self.batch_size}", f"run.batches={self.batches}")
        return [part for setting in (*self.settings, *own, *more) for part in ("--set", setting)]


@dataclass(frozen=True)
class Rival:
    """A way to train with `benchmarks.rivals`."""

    way: str
    processes: int = 2
    threads: int = 1
    microbatches: int = 4
    compiled: bool = False

    @property
    def name(self) -> str:
        """Name of the way in results."""
        name = f"{self.way}-{self.threads}" if self.way == "bp" else self.way
        return f"{name}, compiled" if self.compiled else name

    def run(self, job: Job, network: Network | None = None, limit: CpuLimit | None = None) -> Row:
        """Run to the end, and return rank 0's result, with the share of a limited process.

        Raises:
            RunFailedError: a process failed.
        """
        machines = network or Loopback()
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            ranks = [
                stack.enter_context(_process(command, folder / f"log-{rank}", self._environment(network)))
                for rank, command in enumerate(self._commands(job, machines, folder))
            ]
            find = _find_started(ranks[limit.layer - 1], folder / "began") if limit else None
            limiter = stack.enter_context(_limiter(find, limit))
            out, _ = ranks[0].communicate()
            for rank, process in enumerate(ranks):
                _check(process.wait(), f"{self.name}, rank {rank}", folder / f"log-{rank}")
        return {**json.loads(out), **_share(limiter)}

    def _commands(self, job: Job, machines: Network | Loopback, folder: Path) -> Iterator[list[str]]:
        options = ["--threads", str(self.threads), "--microbatches", str(self.microbatches)]
        # As many layers as processes: the stages of the pipelines.
        options += [*job.sets("network.layers=2"), "--every", str(job.every), "--warm", str(self._warm(job))]
        options += ["--target", str(TARGET_PERCENT), *(["--compile"] if self.compiled else [])]
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
        # Without the variable, gloo chooses the interface by the host's name, which may belong to none.
        interface = "eth0" if network else "lo"
        return {**environment(), "OMP_NUM_THREADS": str(self.threads), "GLOO_SOCKET_IFNAME": interface}


@dataclass(frozen=True)
class Layerwise:
    """A way to train with layerwise' cluster.

    Attributes:
        unlock: `decoupling.unlock`.
        profile: `cluster.profile`.
        layers: number of layers K.
        more: further settings, section.key=value.
        tls: whether the processes have certificates, and speak TLS; not for curves.
    """

    unlock: str
    profile: str
    layers: int = 2
    more: tuple[str, ...] = ()
    tls: bool = False

    @property
    def name(self) -> str:
        """Name of the way in results."""
        parts = [f"{self.unlock} {self.profile}", *(each.partition(".")[2] for each in self.more)]
        return ", ".join([*parts, *(["TLS"] if self.tls else [])])

    def run(self, job: Job, network: Network | None = None, limit: CpuLimit | None = None) -> Row:
        """Run to the end, and return the rates or the curve, with the share of a limited process.

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
        if job.every:
            return self._curve(job, own, limit)
        return self._rate(network or Loopback(), job, own, limit)

    def _curve(self, job: Job, own: Sequence[str], limit: CpuLimit | None) -> Row:
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
            train = stack.enter_context(_process(command, folder / "log", environment()))
            find = slave_of(limit.layer, folder / "run" / "state") if limit else None
            stack.enter_context(_limiter(find, limit))
            train.communicate()
            _check(train.returncode, self.name, folder / "log")
            return {"curve": errors(read_metrics(folder / "run"))}

    def _rate(
        self, machines: Network | Loopback, job: Job, own: Sequence[str], limit: CpuLimit | None
    ) -> Row:
        settings = job.sets(*OURS, *own)[1::2]
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            cluster = stack.enter_context(
                ManualCluster(machines, folder, settings, self.layers, tls=self.tls)
            )
            cluster.record_statuses()
            find = slave_of(limit.layer, folder / "state") if limit else None
            limiter = stack.enter_context(_limiter(find, limit))
            cluster.wait_for_end()
            last = cluster.query("status")
            figure = quality(cluster.query("evaluate")["metrics"])
            rates = row([*cluster.recorded_statuses(), last], job.batch_size)
        return {**rates, **figure, **_share(limiter)}


Way = Rival | Layerwise


def row(statuses: Sequence[Mapping[str, Any]], batch_size: int) -> Row:
    """Return the values to compare of a run, from the statuses second by second."""
    last = statuses[-1]
    seconds = last["training_seconds"]
    own = {
        str(seat["layer"]): rate(beats(statuses, k), batch_size, seconds)
        for k, seat in enumerate(last["seats"])
    }
    steps = {str(seat["layer"]): seat["telemetry"]["step_seconds"] for seat in last["seats"]}
    return {
        # The slowest layer sets the pace of all.
        "samples_per_second": min(own.values()),
        "layer_rates": own,
        "master_share": master_share(statuses),
        "waiting_fraction": last["waiting_fraction"],
        "bottleneck": max(steps, key=lambda k: steps[k]),
    }


def beats(statuses: Iterable[Mapping[str, Any]], seat: int) -> list[tuple[int, float]]:
    """Return a seat's heartbeats: number of steps, and time in seconds."""
    seats = [(status["seats"][seat], status["training_seconds"]) for status in statuses]
    return [(each["telemetry"]["steps"], seconds - each["lease_age"]) for each, seconds in seats]


def rate(beats: Sequence[tuple[int, float]], batch_size: int, seconds: float) -> float:
    """Compute a layer's own samples per second, between the first and last heartbeat in training.

    The heartbeat after the last step does not count, because it may come up to a second late. A run too short
    for two heartbeats has the rate over its whole time, `seconds`.
    """
    within = [beat for beat in beats if WARM <= beat[0] < beats[-1][0]]
    if not within or within[0][0] == within[-1][0]:
        within = [(0, 0.0), (beats[-1][0], seconds)]
    first, last = within[0], within[-1]
    return round((last[0] - first[0]) * batch_size / (last[1] - first[1]), 1)


def master_share(statuses: Sequence[Mapping[str, Any]]) -> float:
    """Compute the master's share of a core while every layer trained; of a short run, over the whole time."""
    final = [seat["telemetry"]["steps"] for seat in statuses[-1]["seats"]]
    spent = [
        (status["counters"]["cpu_seconds"], status["training_seconds"])
        for status in statuses
        if all(WARM <= seat["telemetry"]["steps"] < n for seat, n in zip(status["seats"], final, strict=True))
    ]
    if len(spent) < 2:
        last = statuses[-1]
        spent = [(0.0, 0.0), (last["counters"]["cpu_seconds"], last["training_seconds"])]
    (before, began), (after, ended) = spent[0], spent[-1]
    return round(float((after - before) / (ended - began)), 4)


def errors(lines: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Extract the curve from a run's metrics."""
    return [(each["batches"], each["test_error_percent"]) for each in lines if each["kind"] == "evaluation"]


def batches_to(curve: Curve, percent: float) -> float | None:
    """Interpolate the number of batches to the test error `percent`, linearly between evaluations.

    None if the error never gets there; the first evaluation's batches if the curve starts below.
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


@contextmanager
def _process(
    command: Sequence[str], errors: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Start a process with its errors in a file, and end it with the context."""
    with errors.open("w") as log:
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


def _check(code: int, name: str, errors: Path) -> None:
    if code:
        lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise RunFailedError(f"{name} ended with {code}: {lines[-1] if lines else 'its output is empty'}")


def _find_started(process: subprocess.Popen[str], began: Path) -> Find:
    """Find a rival's process after the clock's start."""
    return lambda: psutil.Process(process.pid) if began.exists() else None


def _limiter(find: Find | None, limit: CpuLimit | None) -> CpuLimiter | nullcontext[None]:
    return CpuLimiter(find, limit.allowed) if find and limit else nullcontext()


def _share(limiter: CpuLimiter | None) -> Row:
    return {"share": limiter.share} if limiter else {}
