"""Fewest bytes a second of a peer that sends, measured over a window."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from common.errors import StalledError
from common.net.http2.pipe import SLOWEST_BYTES, WRITE_SECONDS

# Measurements within a window.
_LOOKS = 6


class Pace:
    """Bound of the reads of a pipe by rate: a long message may take long, a standstill may not.

    Args:
        window: seconds over which the rate is measured; the longest standstill.
        floor: fewest bytes a second.
        clock: monotonic seconds.

    Attributes:
        seconds: longest wait of a read between two measurements.
        nbytes: bytes received so far.
        taken_at: moment of the last count.
    """

    def __init__(
        self,
        window: float = WRITE_SECONDS,
        floor: float = SLOWEST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = window / _LOOKS
        self.nbytes = 0
        self.taken_at = 0.0
        self._window = window
        self._floor = floor
        self._clock = clock
        # Moments and the bytes received until then.
        self._looks: deque[tuple[float, int]] = deque()
        self._due = 0.0

    def restart(self) -> None:
        """Begin a message: the next read begins the first window."""
        self._looks.clear()
        self._due = 0.0

    def take(self, nbytes: int) -> None:
        """Count received bytes; zero after a wait without any.

        Raises:
            StalledError: the peer is too slow.
        """
        self.nbytes += nbytes
        self.taken_at = self._clock()
        if self.taken_at >= self._due:
            self._due = self.taken_at + self.seconds
            self.look()

    def look(self) -> None:
        """Measure the rate.

        Raises:
            StalledError: the peer is too slow.
        """
        looks, now = self._looks, self.taken_at
        looks.append((now, self.nbytes))
        while len(looks) > 1 and looks[1][0] <= now - self._window:
            looks.popleft()
        if self.measured_seconds() >= self._window and self.rate() < self._floor:
            raise StalledError(f"a peer stood still, or sent under {self._floor:g} bytes a second")

    def measured_seconds(self) -> float:
        """Return the length of the window so far."""
        return self.taken_at - self._looks[0][0] if self._looks else 0.0

    def rate(self) -> float:
        """Return the bytes a second of the window so far; infinite for a window that has just begun."""
        if not (seconds := self.measured_seconds()):
            return float("inf")
        return (self.nbytes - self._looks[0][1]) / seconds
