"""Progress of a run over its leases: the time since the slaves last got further. Pure."""

from __future__ import annotations


class Progress:
    """Time of a run's last progress, and the successors that came since.

    A slave's batches are lost if the slave ends before the next push. Slaves that end faster than they push
    get no further, although seats are taken again and again. Progress is a push, a batch that no slave of
    the seat had seen before, or the first slave of a seat. A master counts from its own first look.

    Times are seconds of a monotonic clock.

    Attributes:
        successors: leases, since the last progress, on seats that had a slave before.
    """

    def __init__(self) -> None:
        self.successors = 0
        self._reached: object = None
        self._since: float | None = None
        self._earlier_successors = 0

    def note(self, versions: dict[str, int], seats: list[tuple[int, int]], now: float) -> None:
        """Look at the run.

        Args:
            versions: version of every shard.
            seats: first batch that no slave of a seat has seen, and leases granted on the seat.
            now: the time.
        """
        reached = versions, [(next_batch, grants > 0) for next_batch, grants in seats]
        successors = sum(max(0, grants - 1) for _, grants in seats)
        if self._since is None or reached != self._reached:
            self._reached, self._since, self._earlier_successors = reached, now, successors
        self.successors = successors - self._earlier_successors

    def still_seconds(self, now: float) -> float:
        """Seconds since the last progress."""
        return 0.0 if self._since is None else now - self._since
