"""Slaves that wait for a seat, and the first seats of a run. Decides; no I/O, no clock.

The first seats are dealt together, so that faster machines take the layers with more work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from common.errors import MalformedError, UnreachableError
from common.wire.messages import JoinRequest
from master.placing import is_even
from master.seating import Seating

# Slaves that wait for a seat; each is listed for Prometheus.
MOST_WAITING = 1024
# Without a further slave for so many heartbeats, the first seats are dealt to those that are there, and so
# many heartbeats after the first slave came in any case.
FIRST_BEATS, MOST_BEATS = 5, 20


class Waiting:
    """Slaves that wait, in the order of their first requests. Times are seconds of a monotonic clock.

    Args:
        patience: seconds of silence after which a slave is given up.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        # By slave: request, and time of the last request.
        self._slaves: dict[str, tuple[JoinRequest, float]] = {}
        # Times at which the first slave came, and the last.
        self.first: float | None = None
        self.latest = 0.0

    def __len__(self) -> int:
        return len(self._slaves)

    def note(self, request: JoinRequest, now: float) -> None:
        """Have a slave wait.

        Raises:
            UnreachableError: too many slaves wait.
        """
        if request.slave not in self._slaves:
            if len(self._slaves) >= MOST_WAITING:
                raise UnreachableError(f"{MOST_WAITING} slaves wait for a seat already; ask again")
            self.first = now if self.first is None else self.first
            self.latest = now
        self._slaves[request.slave] = dataclasses.replace(request, key=""), now

    def drop(self, slave: str) -> None:
        """Forget a slave, which has a seat now."""
        self._slaves.pop(slave, None)

    def tick(self, now: float) -> None:
        """Give up silent slaves."""
        self._slaves = {
            name: (slave, seen)
            for name, (slave, seen) in self._slaves.items()
            if now - seen <= self._patience
        }

    def requests(self) -> list[JoinRequest]:
        """Last request of each slave."""
        return [slave for slave, _ in self._slaves.values()]

    def speeds(self) -> dict[str, float]:
        """Speed of each slave's machine; 0: unknown."""
        return {name: request.speed for name, (request, _) in self._slaves.items()}


class Beginning:
    """First seats of a run: dealt at once, as soon as enough is known or no further slave comes.

    Args:
        waiting: slaves that wait.
        seating: the seats.
        beat: seconds of a heartbeat.
        keep: seconds for which a seat is kept for a slave.
        over: the first seats are dealt.
    """

    def __init__(self, waiting: Waiting, seating: Seating, beat: float, keep: float, *, over: bool) -> None:
        self._waiting, self._seating = waiting, seating
        self._patience, self._bound, self._keep = FIRST_BEATS * beat, MOST_BEATS * beat, keep
        self._over = over
        # Counted work of a batch by layer; empty until a slave has told.
        self.work: Mapping[int, float] = {}

    def learn(self, work: Sequence[float], layers: int) -> None:
        """Take the counted work of a batch, by layer, from a slave; none says nothing.

        Raises:
            MalformedError: the list is that of another network.
        """
        if not work:
            return
        if len(work) != layers:
            raise MalformedError(f"a slave counted the work of {len(work)} layers; the run has {layers}")
        # What comes later changes nothing that is known.
        if not self._over:
            self.work = self.work or dict(enumerate(work, 1))

    def holds(self, request: JoinRequest, now: float) -> bool:
        """Whether a slave waits for others, before the first seats are dealt; deals them otherwise.

        A slave whose speed is not known takes the lowest vacant seat at once.

        Raises:
            UnreachableError: too many slaves wait.
        """
        if self._over or not request.speed:
            return False
        self._waiting.note(request, now)
        complete = bool(self.work) and len(self._waiting) >= len(self._seating.vacant())
        first = self._waiting.first or 0.0
        due = now > min(self._waiting.latest + self._patience, first + self._bound)
        if not (is_even(self.work) or complete or due):
            return True
        self._over = True
        self._seating.keep_for(self._waiting.speeds(), self.work, now + self._keep)
        return False
