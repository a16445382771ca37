"""Virtual clock: events in a reproducible order."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """Heap of events; simultaneous events happen in the order of announcement.

    Attributes:
        now: virtual seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._announced = 0

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Announce an event for a time; a time in the past means now."""
        self._announced += 1
        heapq.heappush(self._events, (max(when, self.now), self._announced, event))

    def advance(self) -> bool:
        """Let the next event happen; False without an event."""
        if not self._events:
            return False
        self.now, _, event = heapq.heappop(self._events)
        event()
        return True
