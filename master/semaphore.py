"""Counting semaphore for threads that grants permits in the order of the requests."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Turn:
    """Request that waits for a permit."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.come = threading.Event()


class FairSemaphore:
    """Permits for threads, first come, first served; `threading.Semaphore` lets a newcomer overtake.

    Args:
        permits: most holders at a time.
        clock: monotonic seconds.
    """

    def __init__(self, permits: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = permits
        self._clock = clock
        self._waiting: deque[_Turn] = deque()
        # Requests that stand back for all others.
        self._last: deque[_Turn] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, *, stand_back: bool = False) -> Iterator[None]:
        """Wait for a permit and keep it for the length of a `with` block.

        Args:
            stand_back: requests without this go first, also later ones.
        """
        turn = _Turn(self._clock())
        with self._lock:
            (self._last if stand_back else self._waiting).append(turn)
            self._grant()
        turn.come.wait()
        try:
            yield
        finally:
            with self._lock:
                self._free += 1
                self._grant()

    def pressed(self, seconds: float) -> bool:
        """Whether a request that does not stand back has waited for so long."""
        with self._lock:
            return bool(self._waiting) and self._clock() - self._waiting[0].since >= seconds

    def _grant(self) -> None:
        while self._free and (queue := self._waiting or self._last):
            self._free -= 1
            queue.popleft().come.set()
