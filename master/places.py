"""Whose push may be held in memory: so many at a time, in order, on threads and on an event loop alike."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

# So many pushes of more than a chunk may be held in memory at once; the others wait on their senders' side.
LARGE_PUSHES = 2
# How long such a push may stand still; and with that, how many bytes a second it has to bring.
STALLED_SECONDS = 30.0
SLOWEST = 1 << 20


class Places:
    """A number of places, each held for a while."""

    def __init__(self, count: int = LARGE_PUSHES) -> None:
        self._free = count
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold one, on a thread that may wait."""
        place = self._ask()
        try:
            place.result()
            yield
        finally:
            self._leave(place)

    @asynccontextmanager
    async def held_async(self) -> AsyncIterator[None]:
        """Hold one, on an event loop."""
        place = self._ask()
        try:
            await asyncio.wrap_future(place)
            yield
        finally:
            self._leave(place)

    def _ask(self) -> Future[None]:
        place: Future[None] = Future()
        with self._lock:
            self._waiting.append(place)
            self._give()
        return place

    def _leave(self, place: Future[None]) -> None:
        with self._lock:
            if place.cancelled() or place.cancel():  # it never came to it
                return
            self._free += 1
            self._give()

    def _give(self) -> None:
        while self._free and self._waiting:
            place = self._waiting.popleft()
            if place.set_running_or_notify_cancel():
                self._free -= 1
                place.set_result(None)
