"""The life of a process: settings at the start, and orderly interruption."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import logging
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
log = logging.getLogger("layerwise.lifecycle")
_HANDLED = (signal.SIGINT, signal.SIGTERM)
# Of the largest sigset_t.
_SIGSET_BYTES = 128
# Environment variable with the process number of the parent, which a child must not outlive.
PARENT = "LAYERWISE_PARENT"
# Environment variable that leaves the end of a process to its parent, whatever else sends SIGTERM.
SHIELDED = "LAYERWISE_SHIELDED"
# Environment variable with the number of a slave among those of one machine and run, from 0.
PLACE = "LAYERWISE_PLACE"


def read_place() -> int:
    """Return the number of this slave among those that were started with it, 0 without `PLACE`."""
    return int(os.environ.get(PLACE, "0"))


def keep_freed_memory() -> None:
    """Have malloc keep large freed blocks: page faults are a third of the cost of a new chunk."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    except (OSError, AttributeError):  # not glibc: other allocators have no such option
        return


def raise_file_limit() -> None:
    """Raise the number of files that this process may open to the most that the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses its own "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def file_limit() -> int:
    """Return the number of files that this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def give_way() -> None:
    """Let this thread and the threads that it starts wake without preempting a computing thread.

    For work that no step waits for: such a thread runs when a core is idle, or a few milliseconds later.
    With the default policy it would interrupt a training thread inside a product and leave a cold cache.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may forbid the call
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent dies, if the environment variable `PARENT` is set.

    The processes of a cluster must not outlive the command that started them, even after `kill -9`.
    """
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # the parent died before the request
        os.kill(os.getpid(), signal.SIGTERM)


def peak_rss_bytes() -> int:
    """Peak resident memory of the process, in bytes."""
    try:
        # Linux: getrusage would include the parent's memory at the start of this process.
        with open("/proc/self/status", encoding="ascii") as status:
            peak = next(line for line in status if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    except (OSError, StopIteration):
        peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak_rss if sys.platform == "darwin" else peak_rss * 1024


def cpu_seconds() -> float:
    """CPU time of the process, user and system."""
    return time.process_time()


@functools.cache
def _leave_handlers_to_this_process() -> None:
    """Have forked children, as of a user's pool of processes, end by the signals that this process handles.

    A handler of Python would stop a child from ending. And Python forgets a signal that it has noted, and not
    handled, when a child begins: so the signals wait during the fork.
    """
    os.register_at_fork(
        before=_change_mask(signal.SIG_BLOCK),
        after_in_parent=_change_mask(signal.SIG_UNBLOCK),
        after_in_child=_forget_handlers,
    )


def _change_mask(how: int) -> Callable[[], object]:
    """Return a function that blocks or unblocks the signals, and runs no handler.

    `signal.pthread_sigmask` runs handlers, and an error in a hook of a fork is printed and forgotten: an
    interrupt would be lost.
    """
    libc, signals = ctypes.CDLL(None), ctypes.create_string_buffer(_SIGSET_BYTES)
    libc.sigemptyset(signals)
    for number in _HANDLED:
        libc.sigaddset(signals, int(number))
    return functools.partial(libc.pthread_sigmask, int(how), signals, None)


def _forget_handlers() -> None:
    for number in _HANDLED:
        handler = signal.getsignal(number)
        # The parent goes on after an interrupt at the terminal, which its children receive too.
        goes_on = number == signal.SIGINT and isinstance(getattr(handler, "__self__", None), Interrupt)
        if handler is not signal.SIG_IGN:
            signal.signal(number, _pass_over if goes_on else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


def _pass_over(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
    """Pass over a first interrupt; a second one ends the process."""
    signal.signal(number, signal.SIG_DFL)


def heed_termination() -> None:
    """Have SIGTERM interrupt this process as Ctrl-C does, on the main thread.

    Process 1 of a container would otherwise not receive the signal at all.
    """
    _leave_handlers_to_this_process()
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def heed_stops(loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> None:
    """Have SIGINT and SIGTERM stop a service on an event loop.

    A shielded process passes over SIGTERM while its parent lives, which stops the process by SIGINT: whoever
    stops the parent with all its children, as `ray job stop` does, would stop a master before its slaves have
    pushed the rest.
    """

    def terminate() -> None:
        parent = os.environ.get(PARENT)
        if SHIELDED in os.environ and parent is not None and os.getppid() == int(parent):
            log.info("SIGTERM: leaving the end to the command that started this process")
        else:
            stop()

    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGTERM, terminate)


class Interrupt:
    """Context in which SIGINT and SIGTERM call `stop`, once; a second signal forces the exit.

    Forked children die of SIGTERM, and of a second SIGINT: the first one at a terminal is for this process.
    Old handlers are restored at the end. `stop` runs inside a signal handler, so it should only set a flag.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self.received = False

    def __enter__(self) -> Self:
        _leave_handlers_to_this_process()
        self._old = {number: signal.signal(number, self._handle) for number in _HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's signature
        if self.received:
            os._exit(INTERRUPTED)
        self.received = True
        self._stop()
