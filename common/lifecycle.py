"""The life of a process: what is set at its start, and how it is asked to stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PR_SET_PDEATHSIG = 1
INTERRUPTED = 130
# Names the process that a child must not outlive.
PARENT = "LAYERWISE_PARENT"


def keep_freed_memory() -> None:
    """Have malloc keep large blocks that are freed: a chunk's page faults are a third of what it costs."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    except (OSError, AttributeError):  # not glibc: its malloc does as it does
        return


def give_way() -> None:
    """Have this thread, and those that it starts, wake up without taking the core from who computes there.

    For what a step does not wait for: it runs as soon as a core is idle, or a few milliseconds later. Woken
    as usual it would stop a training thread in the middle of a product, and leave it a cold cache.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the process that started this one dies, if it asked for that.

    A cluster's processes must not outlive the command that started them, however that one ends.
    """
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
    try:
        # Linux: getrusage would count what the parent held when it started this process.
        with open("/proc/self/status", encoding="ascii") as status:
            peak = next(line for line in status if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    except (OSError, StopIteration):
        peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak_rss if sys.platform == "darwin" else peak_rss * 1024


def cpu_seconds() -> float:
    """CPU time of this process, user and system."""
    return time.process_time()


class Interrupt:
    """SIGINT and SIGTERM call `stop`, once; a second one forces the exit. The old handlers are put back.

    The handler only sets what it is told to: what stops does so outside of it.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self.received = False

    def __enter__(self) -> Self:
        self._old = {which: signal.signal(which, self._handle) for which in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for which, handler in self._old.items():
            signal.signal(which, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's signature
        if self.received:
            os._exit(INTERRUPTED)
        self.received = True
        self._stop()
