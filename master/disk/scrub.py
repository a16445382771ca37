"""Slow scrub of the shards: records checksums of versions that rest, and finds damaged versions."""

from __future__ import annotations

import threading
import time

from master.disk.state import StateDirectory

# Seconds between two rounds.
SCRUB_SECONDS = 10.0
# Part of a core that a round takes.
DUTY = 0.1


class Scrub:
    """Reads every shard's active buffer, piece by piece, beside the pushes.

    Args:
        state: directory with the shards.
        duty: part of the time that a round computes; the rest is pauses.
    """

    def __init__(self, state: StateDirectory, duty: float = DUTY) -> None:
        self._state = state
        self._rest = (1 - duty) / duty
        self._stop = threading.Event()
        self._since = 0.0

    def run(self) -> str:
        """Scrub every shard once; returns the first damage, or an empty text."""
        for pair in list(self._state.pairs.values()):
            self._since = time.perf_counter()
            if damage := pair.scrub(self._pause):
                return damage
        return ""

    def stop(self) -> None:
        """End a round without further pauses."""
        self._stop.set()

    def _pause(self) -> None:
        self._stop.wait((time.perf_counter() - self._since) * self._rest)
        self._since = time.perf_counter()
