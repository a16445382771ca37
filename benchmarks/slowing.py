"""A process held to a share of a core, as a slower machine would be."""

from __future__ import annotations

import contextlib
import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from common.errors import UnreachableError
from deploy.evaluation.reader import Reader

PERIOD_SECONDS, FIND_SECONDS = 0.01, 0.1
# Its share is the median of as long spells: what it does before and after it trains is not in that.
SPELL_SECONDS = 0.5

# The process once it trains; None until then.
Find = Callable[[], psutil.Process | None]


class Held:
    """Reads what share of a core a process takes, and may hold it to a smaller one.

    A duty cycle would not do: on a machine with more processes than cores, one that is stopped three quarters
    of the time catches up in the last.

    Args:
        find: asked again and again until it gives the process; the share counts from then.
        allowed: of a core; None: it is only watched.

    Attributes:
        share: of a core, until it ended or this did: the median of spells.
    """

    def __init__(self, find: Find, allowed: float | None) -> None:
        self._spells: list[float] = []
        self._find = find
        self._allowed = allowed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        process = None
        while process is None:
            if self._stop.wait(FIND_SECONDS):
                return
            process = self._find()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._hold(process)

    @property
    def share(self) -> float:
        """Zero where it was seen for less than a spell."""
        return statistics.median(self._spells) if self._spells else 0.0

    def _hold(self, process: psutil.Process) -> None:
        began, before, stopped = time.monotonic(), cpu_seconds(process), False
        since, then = began, before
        try:
            while not self._stop.wait(PERIOD_SECONDS):
                now, used = time.monotonic(), cpu_seconds(process)
                if now - since >= SPELL_SECONDS:
                    self._spells.append((used - then) / (now - since))
                    since, then = now, used
                # Over all of its time: what it missed when it could not run it may catch up on.
                over = self._allowed is not None and used - before > self._allowed * (now - began)
                if stopped != over:
                    stopped = over
                    process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)
        finally:
            if stopped:
                process.send_signal(signal.SIGCONT)


def slave_of(layer: int, state: Path) -> Find:
    """The first replica's slave of a layer, by the master's state directory, once every layer trains."""

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
    """What it has used so far, in and for it."""
    times = process.cpu_times()
    return float(times.user + times.system)
