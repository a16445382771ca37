"""Clocks of the simulated machine: virtual seconds, and jumps of the wall clock and the monotonic clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

EPOCH = 1.8e9


class MasterTime:
    """Clocks of the master's machine, ahead of the virtual time by offsets."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.wall_offset = EPOCH
        self.monotonic_offset = 1000.0
        self._now = now

    def wall(self) -> float:
        """Seconds of the epoch."""
        return self._now() + self.wall_offset

    def monotonic(self) -> float:
        """Seconds that never go back, within a boot."""
        return self._now() + self.monotonic_offset

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have this process' clocks show the machine's."""
        with (
            patch("time.time", self.wall),
            patch("time.monotonic", self.monotonic),
            patch("time.perf_counter", self.monotonic),
        ):
            yield
