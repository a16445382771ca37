"""Who trains what: leases on (layer, replica), kept by heartbeats. A state machine; the clock comes in."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from common.data.replicas import partners
from common.errors import FencedError, MalformedError
from common.wire.messages import JoinReply, JoinRequest, Peer, Seat, Telemetry, Utilization


@dataclass(frozen=True)
class Event:
    """Something that happened to a lease: joined, replaced (another one), left, failed, fenced or done."""

    what: str
    layer: int
    replica: int
    incarnation: int
    slave: str
    why: str = ""


@dataclass
class _Lease:
    """One seat and what is known of it; `incarnation` 0 is a vacant one."""

    layer: int
    replica: int
    incarnation: int = 0
    slave: JoinRequest = field(default_factory=JoinRequest)
    seen: float = 0.0
    beat: int = 0
    grants: int = 0
    # How the seat's last slave went: of the next one, whom it replaces.
    gone: str = ""
    done: bool = False
    telemetry: Telemetry = field(default_factory=Telemetry)
    # What the seat's earlier slaves did.
    retired: Telemetry = field(default_factory=Telemetry)

    def total(self) -> Telemetry:
        return merged(self.retired, self.telemetry)


def merged(first: Telemetry, second: Telemetry) -> Telemetry:
    """Two slaves' telemetry on one seat, the second the present one: sums, and its gauges."""
    summed = {
        name: getattr(first, name) + getattr(second, name)
        for name in ("steps", "lost_batches", "step_seconds", "waiting_seconds", "cpu_seconds", "pulls")
    }
    return dataclasses.replace(
        second,
        next_batch=max(first.next_batch, second.next_batch),
        delays=dict(Counter(first.delays) + Counter(second.delays)),
        peak_rss_bytes=max(first.peak_rss_bytes, second.peak_rss_bytes),
        **summed,
    )


def _restored(saved: dict[str, Any]) -> Telemetry:
    """Telemetry from JSON, whose keys are text."""
    delays = {int(delay): count for delay, count in saved["delays"].items()}
    return Telemetry(**{**saved, "delays": delays, "utilization": Utilization(**saved["utilization"])})


class Roster:
    """Leases of one run.

    A slave that is silent for `misses` heartbeats is failed and its seat vacant: seen at the tick before, so
    that none that dies is failed later than that. When the roster's own tick comes late by half an interval,
    or the master has just started, every lease is extended: the silence may be ours. `tick` is due every
    `tick_seconds`.
    """

    def __init__(
        self, replicas: list[int], heartbeat_seconds: float, misses: int, saved: dict[str, Any] | None = None
    ) -> None:
        self._replicas = replicas
        self._interval = heartbeat_seconds
        self.tick_seconds = heartbeat_seconds / 8
        self._patience = heartbeat_seconds * misses - self.tick_seconds
        self._leases = [_Lease(k + 1, r) for k, count in enumerate(replicas) for r in range(count)]
        self._incarnations = 0
        # By their names: who asked, and when last.
        self._waiting: dict[str, tuple[JoinRequest, float]] = {}
        self._last_tick: float | None = None
        self._began: float | None = None
        self._ended: float | None = None
        self._earlier_seconds = 0.0
        if saved:
            self._restore(saved)

    @property
    def over(self) -> bool:
        """Whether every layer is through all batches."""
        return all(lease.done for lease in self._leases)

    @property
    def complete(self) -> bool:
        """Whether every seat is taken, so that batches can go through."""
        return all(lease.incarnation or lease.done for lease in self._leases)

    def training_seconds(self, now: float) -> float:
        """Seconds from the first moment that every seat was taken until the run was over."""
        if self._began is None:
            return self._earlier_seconds
        return self._earlier_seconds + (now if self._ended is None else self._ended) - self._began

    def waiting(self) -> int:
        """How many slaves wait for a seat."""
        return len(self._waiting)

    def slaves(self) -> list[JoinRequest]:
        """Every slave that is here: those with a seat, then those that wait for one; none after the end."""
        if self.over:
            return []
        seated = [lease.slave for lease in self._leases if lease.incarnation]
        return seated + [slave for slave, _ in self._waiting.values()]

    def join(self, request: JoinRequest, now: float) -> tuple[JoinReply, list[Event]]:
        """Grant a vacant seat, the lowest layer first; or have the slave wait.

        A slave that asks again while it holds a lease (its answer was lost) is granted the same one.

        Raises:
            MalformedError: a slave without a name, which could not be told from another.
        """
        if not request.slave:
            raise MalformedError("a slave that joins says its name, unique to its process")
        if self.over:
            return JoinReply(over=True), []
        mine = [lease for lease in self._leases if lease.incarnation and lease.slave.slave == request.slave]
        vacant = [lease for lease in self._leases if not lease.incarnation and not lease.done]
        if not mine and not vacant:
            self._waiting[request.slave] = (request, now)
            return JoinReply(), []
        self._waiting.pop(request.slave, None)
        events = [] if mine else [self._grant(vacant[0], request)]
        lease = (mine or vacant)[0]
        lease.seen = now
        self._note_beginning(now)
        return JoinReply(True, False, lease.layer, lease.replica, lease.incarnation), events

    def heartbeat(self, incarnation: int, beat: int, telemetry: Telemetry, now: float) -> list[Event]:
        """Keep a lease, and note what its slave has done.

        Raises:
            FencedError: the lease has passed to another.
        """
        lease = self.seat(incarnation)
        lease.seen, lease.beat, lease.telemetry = now, beat, telemetry
        if not telemetry.done or lease.done:
            return []
        lease.done = True
        if self.over:
            self._ended = now
        return [self._event("done", lease)]

    def leave(self, incarnation: int, telemetry: Telemetry, reason: str) -> list[Event]:
        """Give a lease back at once.

        Raises:
            FencedError: the lease has passed to another.
        """
        lease = self.seat(incarnation)
        lease.telemetry = telemetry
        return [self._vacate(lease, "left", reason)]

    def roll_back(self, saved: dict[str, Any], why: str, now: float) -> list[Event]:
        """End every lease, and have each seat done what it had done when it was saved.

        Incarnations go on growing: whoever holds one is fenced, and joins again by itself.

        Args:
            saved: what `saved` gave then; nothing: at the run's beginning.
            why: for the log.
            now: the time.
        """
        events = [self._vacate(lease, "fenced", why) for lease in self._leases if lease.incarnation]
        self._earlier_seconds, self._began, self._ended = self.training_seconds(now), None, None
        by_seat = {(old["layer"], old["replica"]): old for old in saved.get("leases", [])}
        for lease in self._leases:
            old = by_seat.get((lease.layer, lease.replica))
            lease.done = bool(old and old["done"])
            then = merged(_restored(old["retired"]), _restored(old["telemetry"])) if old else Telemetry()
            # How far it was is in the shards; steps beyond that were not pushed.
            lease.retired = dataclasses.replace(then, next_batch=0, done=lease.done)
        return events

    def tick(self, now: float) -> list[Event]:
        """Fail the slaves that have been silent for too long."""
        late = self._last_tick is None or now - self._last_tick > self.tick_seconds + self._interval / 2
        self._last_tick = now
        self._note_beginning(now)
        self._waiting = {
            name: (slave, seen)
            for name, (slave, seen) in self._waiting.items()
            if now - seen <= self._patience
        }
        if late:
            for lease in self._leases:
                lease.seen = now
            return []
        silent = [
            lease
            for lease in self._leases
            if lease.incarnation and now - lease.seen > self._patience and not self.over
        ]
        return [self._vacate(lease, "failed", f"silent for {now - lease.seen:.1f} s") for lease in silent]

    def seat(self, incarnation: int) -> _Lease:
        """The lease of an incarnation.

        Raises:
            FencedError: it has passed to another.
        """
        for lease in self._leases:
            if incarnation and lease.incarnation == incarnation:
                return lease
        raise FencedError(f"incarnation {incarnation} holds no lease any more; join again for a new one")

    def neighbours(self, incarnation: int, known: int) -> tuple[int, list[Peer]]:
        """The version of a slave's neighbours, and who they are; none if `known` is that version.

        A grant alone makes a new version, and the incarnations count the grants: durably, so that no two
        masters of a run give one number to different neighbours. A seat that is vacant, or whose slave said
        no address (profile light), is left out.

        Raises:
            FencedError: the lease has passed to another.
        """
        seat = self.seat(incarnation)
        if known == self._incarnations:
            return known, []
        found = [
            Peer(lease.layer, lease.replica, lease.incarnation, lease.slave.address)
            for lease in self._leases
            if lease.incarnation and lease.slave.address and self._meet(seat, lease)
        ]
        return self._incarnations, found

    def _meet(self, one: _Lease, other: _Lease) -> bool:
        """Whether two seats are neighbours that share a batch."""
        counts = (self._replicas[lease.layer - 1] for lease in (one, other))
        return abs(one.layer - other.layer) == 1 and other.replica in partners(one.replica, *counts)

    def seats(self, now: float) -> list[Seat]:
        """Every seat, for a reader."""
        return [
            Seat(
                lease.layer,
                lease.replica,
                self._state(lease, now),
                lease.slave.slave,
                lease.slave.host,
                lease.slave.pid,
                lease.slave.device,
                lease.incarnation,
                now - lease.seen if lease.incarnation else 0.0,
                lease.beat,
                lease.grants,
                lease.total(),
            )
            for lease in self._leases
        ]

    def saved(self, now: float) -> dict[str, Any]:
        """What must survive the master: plain values, for JSON."""
        return {
            "incarnations": self._incarnations,
            "training_seconds": self.training_seconds(now),
            "leases": [dataclasses.asdict(lease) for lease in self._leases],
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        self._incarnations = saved["incarnations"]
        self._earlier_seconds = saved["training_seconds"]
        by_seat = {(lease["layer"], lease["replica"]): lease for lease in saved["leases"]}
        for lease in self._leases:
            old = by_seat.get((lease.layer, lease.replica))
            if old:
                for name in ("incarnation", "grants", "gone", "done"):
                    setattr(lease, name, old[name])
                lease.slave = JoinRequest(**old["slave"])
                lease.telemetry, lease.retired = _restored(old["telemetry"]), _restored(old["retired"])

    def _note_beginning(self, now: float) -> None:
        if self._began is None and self.complete and not self.over:
            self._began = now

    def _grant(self, lease: _Lease, request: JoinRequest) -> Event:
        self._incarnations += 1
        lease.incarnation, lease.slave, lease.grants = self._incarnations, request, lease.grants + 1
        lease.beat = 0
        if not lease.gone:
            return self._event("joined", lease)
        return self._event("replaced", lease, lease.gone)

    def _vacate(self, lease: _Lease, what: str, why: str) -> Event:
        event = self._event(what, lease, why)
        lease.gone = (
            f"incarnation {lease.incarnation}, {lease.slave.slave}: {what}, {why or 'no reason given'}"
        )
        lease.retired, lease.telemetry = lease.total(), Telemetry()
        lease.incarnation, lease.slave = 0, JoinRequest()
        # Its END may not have been answered below: until the run is over, the layer needs a slave.
        lease.done = lease.done and self.over
        return event

    def _event(self, what: str, lease: _Lease, why: str = "") -> Event:
        return Event(what, lease.layer, lease.replica, lease.incarnation, lease.slave.slave, why)

    def _state(self, lease: _Lease, now: float) -> str:
        if lease.done:
            return "done"
        if not lease.incarnation:
            return "vacant"
        return "late" if now - lease.seen > 1.5 * self._interval else "training"
