"""A virtual clock: what happens when, in an order that depends on nothing else."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """A heap of events; of two at one time, the one that was announced first happens first.

    Attributes:
        now: virtual seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._announced = 0

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Have an event happen then, or now where that has gone by."""
        self._announced += 1
        heapq.heappush(self._events, (max(when, self.now), self._announced, event))

    def advance(self) -> bool:
        """Let the next event happen; False where there is none."""
        if not self._events:
            return False
        self.now, _, event = heapq.heappop(self._events)
        event()
        return True
