"""Places in the master's memory for large pushes: bounds by rate, for crawlers while nobody waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import StalledError
from common.net.http2.pace import Pace
from master.semaphore import FairSemaphore

# Large pushes (over a chunk) in the master's memory at a time; further ones wait in their senders' windows.
LARGE_PUSHES = 2
# Longest standstill of a push, and the time over which its rate is measured.
STALLED_SECONDS = 30.0
# Bytes a second below which a push gives its place up to a push that waits.
SLOWEST = 1 << 20


class LargePushes:
    """Places for large pushes, in the order of requests, but for senders that were slow the last time.

    A slow sender, of less than SLOWEST, keeps its place while nobody waits but slow ones: each
    push of a cluster with slow links comes to its end. One whose rate is not known counts as fast.

    Args:
        seconds: longest standstill of a push, and the time over which the rate is measured.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float = STALLED_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._permits = FairSemaphore(LARGE_PUSHES, clock)
        # Senders whose last push was slow; as many as a run has shards and replicas.
        self._slow: set[tuple[str, int]] = set()

    @contextmanager
    def hold(self, shard: str, replica: int) -> Iterator[Pace]:
        """Wait for a place, and keep the place for the length of a `with` block.

        Yields:
            The bound of the push's reads.
        """
        sender = (shard, replica)
        with self._permits.hold(stand_back=sender in self._slow):
            place = _Place(self._permits, self._seconds, self._clock)
            try:
                yield place
            finally:
                slow = place.rate() < SLOWEST
                (self._slow.add if slow else self._slow.discard)(sender)


class _Place(Pace):
    """Rate of a push that has a place."""

    def __init__(self, permits: FairSemaphore, seconds: float, clock: Callable[[], float]) -> None:
        super().__init__(seconds, clock=clock)
        self._permits = permits
        self._patience = seconds / 3

    def look(self) -> None:
        """Measure the rate, and compare with the wishes of those who wait.

        Raises:
            StalledError: the push stands still, or is slow while another waits.
        """
        super().look()
        if self.measured_seconds() < self._patience or self.rate() >= SLOWEST:
            return
        if self._permits.pressed(self._patience):
            raise StalledError(f"it came at less than {SLOWEST >> 20} MiB/s while another push waited")
