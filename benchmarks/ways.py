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
from deploy.runs.directory import metrics_of

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
    compiled: bool = False

    @property
    def name(self) -> str:
        """As results say it."""
        name = f"{self.way}-{self.threads}" if self.way == "bp" else self.way
        return f"{name}, compiled" if self.compiled else name

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
        return self._curve(job, own, hold) if job.every else self._rate(network or Loopback(), job, own, hold)

    def _curve(self, job: Job, own: Sequence[str], hold: Hold | None) -> Row:
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
            stack.enter_context(_holding(find, hold))
            train.communicate()
            _check(train.returncode, self.name, folder / "said")
            return {"curve": errors(metrics_of(folder / "run"))}

    def _rate(self, machines: Network | Loopback, job: Job, own: Sequence[str], hold: Hold | None) -> Row:
        settings = job.sets(*OURS, *own)[1::2]
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            cluster = stack.enter_context(Cluster(machines, folder, settings, self.layers))
            cluster.watch()
            find = slave_of(hold.layer, folder / "state") if hold else None
            held = stack.enter_context(_holding(find, hold))
            cluster.trained()
            last = cluster.asked("status")
            error = cluster.asked("evaluate")["test_error_percent"]
            found = row([*cluster.watched(), last], job.batch_size)
        return {**found, "test_error_percent": error, **_share(held)}


Way = Rival | Layerwise


def row(statuses: Sequence[Mapping[str, Any]], batch_size: int) -> Row:
    """What of a run is compared, from what was said of it second by second and at its end."""
    last = statuses[-1]
    seconds = last["training_seconds"]
    own = {
        str(seat["layer"]): rate(beats(statuses, k), batch_size, seconds)
        for k, seat in enumerate(last["seats"])
    }
    steps = {str(seat["layer"]): seat["telemetry"]["step_seconds"] for seat in last["seats"]}
    return {
        # The slowest layer is the pace of all.
        "samples_per_second": min(own.values()),
        "layer_rates": own,
        "master_share": master_share(statuses),
        "waiting_fraction": last["waiting_fraction"],
        "bottleneck": max(steps, key=lambda k: steps[k]),
    }


def beats(statuses: Iterable[Mapping[str, Any]], seat: int) -> list[tuple[int, float]]:
    """How many steps a seat had made, and when in seconds: its heartbeats."""
    seats = [(status["seats"][seat], status["training_seconds"]) for status in statuses]
    return [(each["telemetry"]["steps"], seconds - each["lease_age"]) for each, seconds in seats]


def rate(beats: Sequence[tuple[int, float]], batch_size: int, seconds: float) -> float:
    """A layer's own samples a second, between the first and the last heartbeat while it trained.

    The one after its last step is no such: it may be a second late. A run that is too short for two has
    what it took in all, which was so many seconds.
    """
    within = [beat for beat in beats if WARM <= beat[0] < beats[-1][0]]
    if not within or within[0][0] == within[-1][0]:
        within = [(0, 0.0), (beats[-1][0], seconds)]
    first, last = within[0], within[-1]
    return round((last[0] - first[0]) * batch_size / (last[1] - first[1]), 1)


def master_share(statuses: Sequence[Mapping[str, Any]]) -> float:
    """Of a core, what the master used while every layer trained; of a run too short for that, in all."""
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
