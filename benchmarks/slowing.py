"""Limit a process to a share of a core, as on a slower machine."""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.beside import Beside
from common.errors import UnreachableError
from deploy.evaluation.reader import Reader

PERIOD_SECONDS, FIND_SECONDS = 0.01, 0.1
# The share is the median over spells of this length, so that start and end of the process do not count.
SPELL_SECONDS = 0.5

# Finds the process once it trains; None before.
Find = Callable[[], psutil.Process | None]


class CpuLimiter(Beside):
    """Measures a process' share of a core, and may limit the share by stopping and continuing the process.

    A fixed duty cycle would not limit it: on a machine with more processes than cores, a process that is
    stopped three quarters of the time catches up in the last quarter.

    Args:
        find: called repeatedly until it returns the process; the measurement starts then.
        allowed: largest share of a core; None: measure only.
        credit: most CPU seconds that time without work may be made up for; a slow machine has hardly any.

    Attributes:
        share: median share of a core over spells, until the process or the context ended.
    """

    def __init__(self, find: Find, allowed: float | None, credit: float = math.inf) -> None:
        super().__init__()
        self._spells: list[float] = []
        self._find = find
        self._allowed = allowed
        self._credit = credit

    def _run(self) -> None:
        process = None
        while process is None:
            if self._stop.wait(FIND_SECONDS):
                return
            process = self._find()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._limit(process)

    @property
    def share(self) -> float:
        """Median share of a core; zero if the process was seen for less than a spell."""
        return statistics.median(self._spells) if self._spells else 0.0

    def _limit(self, process: psutil.Process) -> None:
        began, before, stopped = time.monotonic(), cpu_seconds(process), False
        since, then = began, before
        try:
            while not self._stop.wait(PERIOD_SECONDS):
                now, used = time.monotonic(), cpu_seconds(process)
                if now - since >= SPELL_SECONDS:
                    self._spells.append((used - then) / (now - since))
                    since, then = now, used
                # The limit is on the mean, so time without a core may be made up for.
                if self._allowed is not None:
                    began = max(began, now - (used - before + self._credit) / self._allowed)
                over = self._allowed is not None and used - before > self._allowed * (now - began)
                if stopped != over:
                    stopped = over
                    process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)
        finally:
            if stopped:
                process.send_signal(signal.SIGCONT)


def slave_of(layer: int, state: Path) -> Find:
    """Find a layer's slave, replica 0, by the master's state directory, once every layer trains."""

    def find() -> psutil.Process | None:
        address = state / "address"
        if not address.exists():
            return None
        with Reader(address.read_text(encoding="utf-8")) as reader, contextlib.suppress(UnreachableError):
            status = reader.status(1.0)
            if status.state == "training":
                seat = next(each for each in status.seats if (each.layer, each.replica) == (layer, 0))
                return psutil.Process(seat.pid)
        return None

    return find


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of a process, user and system."""
    times = process.cpu_times()
    return float(times.user + times.system)
