"""Processes of a way in the race: ranks of a rival, or a cluster of ours with an onlooker."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.by_hand import ROOT, Loopback, ManualCluster, environment
from benchmarks.namespaces import Network
from benchmarks.racing.cases import Case, Size
from benchmarks.racing.course import Course
from benchmarks.racing.ways import OurWay, RivalWay
from common.errors import RunFailedError

POLL_SECONDS = 0.1
# Longest time until the clock starts.
START_SECONDS = 120.0
# The onlooker looks at the weights, and nobody evaluates while the clock runs.
NEVER = "run.evaluate_every=1000000"


@dataclass(frozen=True)
class Start:
    """Arguments of the processes of a row.

    Attributes:
        batches: batches that all processes together train at most.
    """

    case: Case
    size: Size
    course: Course
    batches: int
    machines: Network | Loopback

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings of every way."""
        size = self.size
        return (*size.settings, f"run.batch_size={size.batch_size}", f"run.batches={self.batches}")

    @property
    def confined(self) -> list[str]:
        """The command that limits the data of a process to the row's memory."""
        return ["prlimit", f"--data={self.case.memory << 20}"] if self.case.memory else []


class Field(Protocol):
    """Processes of a way that are under way."""

    def pids(self) -> Mapping[str, int]:
        """Return the process ids by name."""

    def last(self) -> int | None:
        """Return the process id of the last process, which events happen to; None before the clock starts."""

    def go_on(self) -> bool:
        """Have due events happen, and return whether the way still trains.

        Raises:
            RunFailedError: a process failed.
        """


class _Processes:
    """Processes with their errors in files."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._folder = folder
        self._environment = {**environment(), **variables}

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process."""
        with self._log(name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def end(self) -> None:
        """Kill every process: the files of the row are written already."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def failure(self) -> str | None:
        """Return the names and last words of failed processes; None if all are well."""
        failed = [name for name, process in self.running.items() if process.poll()]
        return "; ".join(f"{name} failed: {self._last_line(name)}" for name in failed) or None

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with {self.running[name].returncode}"

    def _log(self, name: str) -> Path:
        return self._folder / f"log-{name}"


class Ranks:
    """Ranks of a rival; where one is killed, all start again from a checkpoint, as no rival goes on alone.

    Args:
        commands: returns the command of every rank of an attempt.
        course: the row's.
        variables: environment variables.
    """

    def __init__(
        self, commands: Callable[[int], Iterator[list[str]]], course: Course, variables: Mapping[str, str]
    ) -> None:
        self._commands = commands
        self._course = course
        self._processes = _Processes(course.folder, variables)
        self._attempt = 0

    def __enter__(self) -> Ranks:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.end()

    def pids(self) -> Mapping[str, int]:
        """Return the process ids by name."""
        return {name: process.pid for name, process in list(self._processes.running.items())}

    def last(self) -> int | None:
        """Return the process id of the last rank; None before the clock starts."""
        return list(self.pids().values())[-1] if self._course.began() is not None else None

    def go_on(self) -> bool:
        """Start the ranks again after a kill, and return whether a rank still trains."""
        failure = self._processes.failure()
        if failure is None:
            return any(process.poll() is None for process in self._processes.running.values())
        if not (self._course.struck and self._attempt == 0):
            raise RunFailedError(failure)
        self._processes.end()
        self._attempt += 1
        self._start()
        return True

    def _start(self) -> None:
        for rank, command in enumerate(self._commands(self._attempt)):
            self._processes.start(f"rank-{rank}", command)


class OurCluster:
    """A master, slaves and an onlooker; a killed slave is started again on its machine at once.

    Args:
        cluster: master, without slaves yet.
        slaves: number of slaves.
        machines: the onlooker is on the master's.
        course: the row's.
    """

    def __init__(
        self, cluster: ManualCluster, slaves: int, machines: Network | Loopback, course: Course
    ) -> None:
        self._cluster, self._slaves = cluster, slaves
        self._machines, self._course = machines, course
        self._onlooker = _Processes(course.folder, {})

    def __enter__(self) -> OurCluster:
        self._cluster.__enter__()
        try:
            self._start_onlooker()
            self._cluster.add_slaves(self._slaves)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._onlooker.end()
        self._cluster.__exit__(None, None, None)

    def _start_onlooker(self) -> None:
        command = [*self._machines.inside(0), sys.executable, "-m", "benchmarks.racing.watching"]
        command += ["--master", self._cluster.address, "--folder", str(self._course.folder)]
        self._onlooker.start("onlooker", [*command, "--every", str(self._course.every)])
        # Its start must not take a core from the training.
        deadline = time.monotonic() + START_SECONDS
        while not self._course.watched:
            if failure := self._onlooker.failure():
                raise RunFailedError(failure)
            if time.monotonic() > deadline:
                raise RunFailedError(f"the onlooker did not start within {START_SECONDS:g} s")
            time.sleep(POLL_SECONDS)

    def pids(self) -> Mapping[str, int]:
        """Return the process ids by name; the onlooker is no part of the way."""
        return self._cluster.pids

    def last(self) -> int | None:
        """Return the process id of the last layer's last replica; None before the clock starts."""
        file = self._course.folder / "last"
        return int(file.read_text() or 0) or None if file.exists() else None

    def go_on(self) -> bool:
        """Kill and start the last slave if that is due; return whether the onlooker sees the run go on."""
        course, last = self._course, self.last()
        progress = course.progress() if course.kill_at and not course.struck else []
        if progress and last and progress[-1][0] >= course.kill_at and course.strike():
            self._cluster.replace(last)
        self._cluster.check()
        if failure := self._onlooker.failure():
            raise RunFailedError(failure)
        return self._onlooker.running["onlooker"].poll() is None


def open_field(start: Start) -> AbstractContextManager[Field]:
    """Return the processes of a row, which start with the context."""
    way = start.case.chosen
    return _ranks(way, start) if isinstance(way, RivalWay) else _cluster(way, start)


def _ranks(way: RivalWay, start: Start) -> Ranks:
    course, machines = start.course, start.machines
    options = ["--folder", str(course.folder), "--every", str(course.every)]
    options += ["--checkpoint", str(course.checkpoint), "--kill-at", str(course.kill_at)]
    options += [part for each in (*start.settings, "network.layers=2") for part in ("--set", each)]

    def commands(attempt: int) -> Iterator[list[str]]:
        for rank in range(way.processes):
            meet = ["--meet", str(course.folder / f"meet-{attempt}")] if way.processes > 1 else []
            module = [sys.executable, "-m", "benchmarks.racing.rival", way.name, "--rank", str(rank), *meet]
            yield [*machines.inside(rank + 1), *start.confined, *module, *options]

    threads = {"OMP_NUM_THREADS": str(way.threads), "GLOO_SOCKET_IFNAME": machines.interface}
    return Ranks(commands, course, threads)


def _cluster(way: OurWay, start: Start) -> OurCluster:
    settings = [*start.settings, NEVER, *way.all_settings()]
    cluster = ManualCluster(start.machines, start.course.folder, settings, slaves=0, confined=start.confined)
    return OurCluster(cluster, way.processes, start.machines, start.course)
