"""Counting semaphore for threads that grants permits in the order of the requests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairSemaphore:
    """Permits for threads, first come, first served; `threading.Semaphore` lets a newcomer overtake.

    Args:
        permits: most holders at a time.
    """

    def __init__(self, permits: int) -> None:
        self._free = permits
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Wait for a permit and keep it for the length of a `with` block."""
        turn = threading.Event()
        with self._lock:
            self._waiting.append(turn)
            self._grant()
        turn.wait()
        try:
            yield
        finally:
            with self._lock:
                self._free += 1
                self._grant()

    def _grant(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().set()
