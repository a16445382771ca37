"""Reading ahead: a thread prepares the next batches while a trainer works on the present one.

Values are pure functions of the batch, so that reading ahead changes no number.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")

# Batches prepared ahead, each held in memory.
DEPTH = 2


class Prefetch(Generic[Value]):
    """Values by batch, of which the next ones in a regular row of requests are read ahead.

    The distance of the last two requests is that of the next ones: a replica trains every R-th batch. The
    thread ends when nothing more is wanted, and starts again with the next request; at most `DEPTH` values
    wait. An error while reading ahead is raised by the request for that batch.

    Args:
        read: returns the value of a batch; called from one thread or two.
    """

    def __init__(self, read: Callable[[int], Value]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._last: int | None = None
        self._ahead: dict[int, Future[Value]] = {}
        self._queue: deque[int] = deque()
        self._running = False

    def get(self, batch: int) -> Value:
        """Return the value of a batch; the caller may change it.

        Raises:
            Exception: reading has failed.
        """
        with self._lock:
            ready = self._ahead.pop(batch, None)
            if ready is not None and ready.cancel():  # not begun: the caller is faster
                ready = None
            self._plan(batch)
            self._start()
        return self._read(batch) if ready is None else ready.result()

    def _plan(self, batch: int) -> None:
        """Queue the batches wanted next, and forget all others."""
        step = 0 if self._last is None else batch - self._last
        self._last = batch
        wanted = [batch + step * place for place in range(1, DEPTH + 1)] if step > 0 else []
        self._ahead = {number: self._ahead.get(number) or Future() for number in wanted}
        self._queue = deque(number for number in wanted if not _begun(self._ahead[number]))

    def _start(self) -> None:
        if self._running or not self._queue:
            return
        try:
            threading.Thread(target=self._run, name="prefetch", daemon=True).start()
        except RuntimeError:  # the system has no room for a thread: batches are read when they are asked for
            self._ahead.clear()
            self._queue.clear()
        else:
            self._running = True

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            batch, future = taken
            try:
                future.set_result(self._read(batch))
            except BaseException as error:
                future.set_exception(error)

    def _take(self) -> tuple[int, Future[Value]] | None:
        """Take the next wanted batch; None ends the thread."""
        with self._lock:
            while self._queue:
                batch = self._queue.popleft()
                future = self._ahead.get(batch)
                if future is not None and not _begun(future) and future.set_running_or_notify_cancel():
                    return batch, future
            self._running = False
            return None


def _begun(future: Future[Value]) -> bool:
    return future.running() or future.done()
