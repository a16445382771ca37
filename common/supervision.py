"""Supervision of long-lived threads and tasks: a transient error costs one round, a defect ends the process.

A process that is started again recovers. A process without one of its threads looks well, and does half its
work.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from common.errors import LayerwiseError, NoRoomError
from common.text import say

log = logging.getLogger("layerwise.supervision")

# Pause after a round that lacked files or memory.
PAUSE_SECONDS = 1.0

_TRANSIENT = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.ECONNABORTED}
)


def is_transient(error: BaseException) -> bool:
    """Whether the next round may succeed: files, memory, threads or room on the disk were short."""
    if isinstance(error, OSError):
        return error.errno in _TRANSIENT
    return isinstance(error, MemoryError | NoRoomError)


class Rounds:
    """Rounds of repeated work, in which a tolerated error costs one round.

    The first failure in a row is logged as a warning. Later failures are counted, and the next success logs
    the count.

    Args:
        work: name of the work, for the log.
        tolerates: decides which errors cost one round; all others are raised.

    Attributes:
        failures: failed rounds since the last success.
    """

    def __init__(self, work: str, tolerates: Callable[[Exception], bool] = is_transient) -> None:
        self._work = work
        self._tolerates = tolerates
        self.failures = 0

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Context of one round.

        Raises:
            Exception: an error of the round that is not tolerated.
        """
        try:
            yield
        except Exception as error:
            if not self._tolerates(error):
                raise
            self.failures += 1
            if self.failures == 1:
                log.warning("%s: %s; trying again", self._work, describe(error))
        else:
            if self.failures:
                log.info("%s: goes on after %d failed rounds", self._work, self.failures)
            self.failures = 0


class SupervisedThread(threading.Thread):
    """Daemon thread, of which an error ends the process.

    Args:
        work: runs on the thread.
        name: of the thread, for the error.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work

    def start(self) -> None:
        """Start the thread.

        Raises:
            BlockingIOError: the system has no room for a thread at present.
        """
        try:
            super().start()
        except RuntimeError as error:
            raise BlockingIOError(errno.EAGAIN, str(error)) from None

    def run(self) -> None:
        """Run the work; an error ends the process."""
        try:
            self._work()
        except Exception as error:
            end_process(f'thread "{self.name}"', error)


def start_task(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a task on the running event loop, of which an error ends the process."""
    return asyncio.ensure_future(_supervise(work, name))


async def _supervise(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except Exception as error:
        end_process(f'task "{name}"', error)


def end_process(part: str, error: BaseException) -> NoReturn:
    """End the process at once, with a line on standard error."""
    code = error.exit_code if isinstance(error, LayerwiseError) else LayerwiseError.exit_code
    log.debug("%s failed", part, exc_info=error)
    say(f"layerwise: {part} failed, and the process ends: {describe(error)}; start the process again")
    os._exit(code)


def describe(error: BaseException) -> str:
    """Describe an error in one line; an error that was not raised on purpose with its type and place."""
    text = " ".join(str(error).split())
    if isinstance(error, LayerwiseError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {text}" if text else f"{type(error).__name__}{place}"
