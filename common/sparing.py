"""Sparing log: what strangers can bring about at any rate fills no disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

# Between two lines of a kind.
SECONDS = 10.0


class SparingLog:
    """Log of one kind of line: one in a while, with the number of those that were left out before it.

    Args:
        log: that takes the lines.
        seconds: between two lines.
        clock: monotonic seconds.
    """

    def __init__(
        self, log: logging.Logger, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._next = -float("inf")
        self._left = 0

    def say(self, level: int, message: str, *values: object) -> None:
        """Log a line, or leave it out; from any thread."""
        now = self._clock()
        with self._lock:
            if now < self._next:
                self._left += 1
                return
            left, self._left, self._next = self._left, 0, now + self._seconds
        if left:
            message, values = f"{message} (and %d more since the last such line)", (*values, left)
        self._log.log(level, message, *values)
