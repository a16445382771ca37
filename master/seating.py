"""Seats of a run: those of the present replicas, and those of earlier ones. Decides; no I/O, no clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from common.wire.messages import Telemetry
from common.wire.ranges import MOST
from master.lease import Lease, Place
from master.placing import assign, deal_first, step_seconds


class Seating:
    """Seats by layer and replica. Times are seconds of a monotonic clock.

    Args:
        replicas: R_k of each layer.

    Attributes:
        replicas: R_k of each layer at present.
        leases: the present seats, the lowest layer first.
        last: whether the run ends once every seat is done; else other replicas follow.
        closing: whether every slave is to give its lease back: nobody is granted a seat.
    """

    def __init__(self, replicas: Sequence[int]) -> None:
        self.last, self.closing = True, False
        self.replicas: list[int] = []
        self.leases: list[Lease] = []
        # Seats of earlier replicas, which may come again.
        self._rested: dict[Place, Lease] = {}
        # Slaves that give their seats back, and then those for which seats are kept, until a time.
        self._kept: dict[Place, str] = {}
        self._speeds: dict[str, float] = {}
        self._kept_until = 0.0
        self.arrange(replicas)

    def arrange(self, replicas: Sequence[int]) -> None:
        """Have the seats of these replicas; seats that were there before keep their counts."""
        self.closing = False
        known = self._rested | {_place(lease): lease for lease in self.leases}
        places = [(k, r) for k, count in enumerate(replicas, 1) for r in range(count)]
        self.replicas = [*replicas]
        self.leases = [known.pop(place) if place in known else Lease(*place) for place in places]
        self._rested = known

    def deal(self, replicas: Sequence[int], kept_until: float, waiting: Mapping[str, float]) -> None:
        """Have the seats of other replicas; nobody holds a lease.

        Args:
            replicas: R_k of each layer from now on.
            kept_until: time up to which the seats are kept for the slaves that fit them.
            waiting: slaves that ask for a seat, with the speeds of their machines.
        """
        assert not self.holders(), "every slave has given its lease back"
        for lease in self.leases:
            lease.retired = dataclasses.replace(lease.retired, done=False, in_flight=0)
            lease.done, lease.gone = False, ""
        work, former = self._find_work(), self._kept
        self.arrange(replicas)
        spares = [slave for slave in waiting if slave not in former.values()]
        places = [_place(lease) for lease in self.leases]
        self._kept = assign(places, former, spares, {**waiting, **self._speeds}, work)
        self._kept_until, self._speeds = kept_until, {}

    def keep_for(self, speeds: Mapping[str, float], work: Mapping[int, float], until: float) -> None:
        """Keep the vacant seats for slaves that wait, the layers with more work for the faster ones.

        Args:
            speeds: by slave; 0: unknown.
            work: of a batch by layer, in any unit; empty: unknown.
            until: time up to which the seats are kept.
        """
        places = [_place(lease) for lease in self.vacant()]
        self._kept, self._kept_until = deal_first(places, speeds, work), until

    def _find_work(self) -> dict[int, float]:
        """Return the work of a batch by layer: computing time, times the mean speed of the slaves."""
        speeds: dict[int, list[float]] = {}
        for (k, _), slave in self._kept.items():
            speeds.setdefault(k, []).append(self._speeds.get(slave) or 1.0)
        return {
            k: seconds * sum(found := speeds.get(k, [1.0])) / len(found)
            for k, seconds in step_seconds(self.leases).items()
        }

    def rest(self, places: Iterable[Place]) -> None:
        """Have the seats of a saved roster beside the present ones."""
        here = {_place(lease) for lease in self.leases}
        self._rested = {place: Lease(*place) for place in places if place not in here}

    def all(self) -> list[Lease]:
        """Present seats, then seats of earlier replicas."""
        return [*self.leases, *self._rested.values()]

    @property
    def passed(self) -> bool:
        """Whether every layer is through the batches of the present replicas."""
        return all(lease.done for lease in self.leases)

    def holders(self) -> list[int]:
        """Incarnations that hold a lease."""
        return [lease.incarnation for lease in self.leases if lease.incarnation]

    def vacant(self) -> list[Lease]:
        """Seats without a slave that are not through their batches."""
        return [lease for lease in self.leases if not (lease.incarnation or lease.done)]

    def next_batches(self) -> Iterator[int]:
        """First batch that no slave of a seat has seen, seat by seat."""
        return (lease.reached for lease in self.leases)

    def reached(self) -> list[tuple[int, int]]:
        """First batch that no slave of a seat has seen, and leases granted on the seat, seat by seat."""
        return list(zip(self.next_batches(), (lease.grants for lease in self.leases), strict=True))

    def give_up(self, lease: Lease, batches: int) -> None:
        """Count batches of a seat that nobody will train on as lost."""
        lost = min(lease.retired.lost_batches + batches, MOST)
        lease.retired = dataclasses.replace(lease.retired, lost_batches=lost)

    def rested(self) -> list[Telemetry]:
        """Work of every slave of the seats that are gone."""
        return [lease.total() for lease in self._rested.values()]

    def close(self) -> None:
        """Have every slave give its lease back; seats that were kept before are kept no more."""
        if not self.closing:
            self.closing, self._kept, self._speeds = True, {}, {}

    def keep(self, lease: Lease) -> None:
        """Keep a seat for the slave that is about to give it back."""
        if self.closing:
            self._kept[_place(lease)] = lease.slave.slave
            self._speeds[lease.slave.slave] = lease.slave.speed

    def returning(self) -> set[str]:
        """Slaves that have given their seats back, before the seats of the next stage are dealt."""
        return {*self._kept.values()} if self.closing else set()

    def open_to(self, slave: str, vacant: list[Lease], now: float) -> list[Lease]:
        """List the vacant seats for a slave: its own of before, else those that are kept for nobody."""
        if self.closing:
            return []
        if now > self._kept_until:
            self._kept = {}
        own = [lease for lease in vacant if self._kept.get(_place(lease)) == slave]
        return own or [lease for lease in vacant if _place(lease) not in self._kept]


def _place(lease: Lease) -> Place:
    return lease.layer, lease.replica
