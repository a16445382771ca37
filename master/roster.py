"""State machine of the leases on (layer, replica), kept by heartbeats; the time comes in as an argument."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from common.credentials import hash_secret, is_secret
from common.data.replicas import meet
from common.errors import MalformedError, UnprovenError, UnreachableError
from common.strict_json import to_plain
from common.wire.messages import Holdings, JoinReply, JoinRequest, Peer, Seat, Telemetry
from common.wire.ranges import COUNT, MOST, restore
from common.wire.stores import ListedLease
from common.wire.telemetry import merge
from master.keyring import Keyring
from master.lease import Lease, LeaseEvent, restore_telemetry
from master.leases import check_batch, fenced
from master.seating import Seating
from master.waiting import Beginning, Waiting


class Roster:
    """Leases of a run.

    A slave that is silent for `misses` heartbeats is failed, and its seat becomes vacant. The tick before the
    full time decides, so no dead slave is failed later. After a tick that is half an interval late, or a
    start of the master, every lease is extended: the master may have missed heartbeats. `tick` is due every
    `tick_seconds`.

    Args:
        replicas: R_k of each layer at present.
        heartbeat_seconds: interval of the heartbeats.
        misses: heartbeats that a slave may miss.
        saved: values from an earlier roster's `dump`; None at the run's beginning.
        batch_bound: upper bound of batch numbers.
        keyring: makes the secrets of leases and pairs.
        broadcasts: whether layer K has a stream to every layer.

    Attributes:
        seating: the seats.
        beginning: decides when the first seats are dealt.
    """

    def __init__(
        self,
        replicas: Sequence[int],
        heartbeat_seconds: float,
        misses: int,
        saved: dict[str, Any] | None = None,
        batch_bound: int = MOST,
        *,
        keyring: Keyring,
        broadcasts: bool = False,
    ) -> None:
        self._broadcasts = broadcasts
        self.seating = Seating(replicas)
        self._batch_bound = batch_bound
        self._keyring = keyring
        self._interval = heartbeat_seconds
        self.tick_seconds = heartbeat_seconds / 8
        self._patience = heartbeat_seconds * misses - self.tick_seconds
        self._by_incarnation: dict[int, Lease] = {}
        self._incarnations = 0
        # Whether the last changes are not durable yet.
        self.unsettled = False
        self._waiting = Waiting(self._patience)
        self._last_tick: float | None = None
        self._began: float | None = None
        self._ended: float | None = None
        self._earlier_seconds = 0.0
        if saved:
            self._restore(saved)
        # In a run of one layer seats are alike.
        begun = self._incarnations > 0 or len(replicas) == 1
        self.beginning = Beginning(self._waiting, self.seating, heartbeat_seconds, self._patience, over=begun)

    @property
    def over(self) -> bool:
        """Whether every layer is through all batches of the run."""
        return self.seating.last and self.seating.passed

    @property
    def _leases(self) -> list[Lease]:
        return self.seating.leases

    @property
    def complete(self) -> bool:
        """Whether every seat is taken, so that batches can go through."""
        return all(lease.incarnation or lease.done for lease in self._leases)

    def still_seconds(self, now: float) -> float:
        """Seconds since the last batch or grant of any slave; 0 of a run that is over or incomplete."""
        if self.over or not self.complete:
            return 0.0
        return min((now - lease.moved for lease in self._leases if not lease.done), default=0.0)

    def training_seconds(self, now: float) -> float:
        """Seconds since every seat was first taken, until the end of the run."""
        if self._began is None:
            return self._earlier_seconds
        return self._earlier_seconds + (now if self._ended is None else self._ended) - self._began

    def deal(self, replicas: Sequence[int], now: float) -> None:
        """Deal the seats of other replicas, R_k of each layer; nobody holds a lease."""
        self.seating.deal(replicas, now + self._patience, self._waiting.speeds())

    def waiting(self) -> int:
        """Number of waiting slaves."""
        return len(self._waiting)

    def there(self) -> int:
        """Number of slaves that hold a lease or wait, or are between the two as a stage ends."""
        return len(self.seating.holders()) + len(self._waiting.speeds().keys() | self.seating.returning())

    def slaves(self) -> list[JoinRequest]:
        """Slaves with a seat, then waiting slaves; none after the end of the run."""
        if self.over:
            return []
        seated = [lease.slave for lease in self._leases if lease.incarnation]
        return seated + self._waiting.requests()

    def join(
        self, request: JoinRequest, now: float, certificate: str = ""
    ) -> tuple[JoinReply, list[LeaseEvent]]:
        """Grant a vacant seat, the lowest layer first, or ask the slave to wait.

        A slave that asks again while holding a lease (the reply was lost) is granted its lease again. A lease
        is bound to the name of the certificate that has asked; empty in the clear.

        Raises:
            MalformedError: the slave has no name.
            UnprovenError: another process holds a lease under the name.
            UnreachableError: too many slaves wait.
        """
        if not request.slave:
            raise MalformedError("a slave joins under a name, unique to its process")
        if self.over:
            return JoinReply(over=True), []
        mine = [lease for lease in self._leases if lease.incarnation and lease.slave.slave == request.slave]
        vacant = [lease for lease in self._leases if not lease.incarnation and not lease.done]
        if not mine:
            if self.beginning.holds(request, now):
                return JoinReply(dealing=True), []
            vacant = self.seating.open_to(request.slave, vacant, now)
        if not mine and not vacant:
            self._waiting.note(request, now)
            return JoinReply(), []
        for lease in mine:
            known = is_secret(self._keyring.lease(lease.incarnation, request.key), lease.proof)
            if not known or lease.certificate != certificate:
                raise UnprovenError(f"another process holds a lease as {request.slave}; take a new name")
        self._waiting.drop(request.slave)
        events = [] if mine else [self._grant(vacant[0], request, certificate)]
        lease = (mine or vacant)[0]
        lease.seen = now
        if not mine:
            lease.moved = now
        self._note_beginning(now)
        secret = self._keyring.lease(lease.incarnation, request.key)
        reply = JoinReply(True, False, lease.layer, lease.replica, lease.incarnation, secret=secret)
        return reply, events

    def heartbeat(self, incarnation: int, beat: int, telemetry: Telemetry, now: float) -> list[LeaseEvent]:
        """Keep a lease, and store the slave's telemetry.

        Raises:
            FencedError: the lease has passed to another slave.
            MalformedError: the slave claims batches beyond the run's end.
        """
        lease = self.seat(incarnation)
        telemetry = self._grown(lease, telemetry)
        if telemetry.steps > lease.telemetry.steps:
            lease.moved = now
        lease.seen, lease.beat, lease.telemetry = now, beat, telemetry
        if not telemetry.done or lease.done:
            return []
        lease.done = True
        if self.over:
            self._ended = now
        return [self._event("done", lease)]

    def leave(self, incarnation: int, telemetry: Telemetry, reason: str) -> list[LeaseEvent]:
        """Give a lease back at once.

        Raises:
            FencedError: the lease has passed to another slave.
            MalformedError: the slave claims batches beyond the run's end.
        """
        lease = self.seat(incarnation)
        lease.telemetry = self._grown(lease, telemetry)
        return [self._vacate(lease, "left", reason)]

    def roll_back(
        self, saved: dict[str, Any], reason: str, now: float, replicas: Sequence[int] | None = None
    ) -> list[LeaseEvent]:
        """End every lease, and set each seat's work back to a saved state.

        Incarnations go on growing: every holder is fenced, and joins again by itself.

        Args:
            saved: values from an earlier `dump`; empty: from the run's beginning.
            reason: for the event log.
            now: the time.
            replicas: R_k of each layer from now on; None: as before.
        """
        events = [self._vacate(lease, "fenced", reason) for lease in self._leases if lease.incarnation]
        if replicas is not None:
            self.seating.arrange(replicas)
        self._earlier_seconds, self._began, self._ended = self.training_seconds(now), None, None
        by_seat = {(old["layer"], old["replica"]): old for old in saved.get("leases", [])}
        # Before the run's end a layer that was done is needed again: the layers beside it go back.
        here = [old for lease in self._leases if (old := by_seat.get((lease.layer, lease.replica)))]
        over = self.seating.last and bool(here) and all(old["done"] for old in here)
        for lease in self.seating.all():
            old = by_seat.get((lease.layer, lease.replica))
            lease.done = over
            total = merge(*restore_telemetry(old)) if old else Telemetry()
            # The shards say how far the seat was; steps beyond were not pushed.
            lease.retired = dataclasses.replace(total, next_batch=0, done=lease.done)
        return events

    def tick(self, now: float) -> list[LeaseEvent]:
        """Fail slaves after too long a silence."""
        first = self._last_tick is None
        late = self._last_tick is None or now - self._last_tick > self.tick_seconds + self._interval / 2
        self._last_tick = now
        self._note_beginning(now)
        self._waiting.tick(now)
        if late:
            for lease in self._leases:
                lease.seen = now
                # An earlier master's clock says nothing here.
                lease.moved = now if first else lease.moved
            return []
        silent = [
            lease
            for lease in self._leases
            if lease.incarnation and now - lease.seen > self._patience and not self.over
        ]
        return [self._vacate(lease, "failed", f"silent for {now - lease.seen:.1f} s") for lease in silent]

    def seat(self, incarnation: int) -> Lease:
        """Find the lease of an incarnation.

        Raises:
            FencedError: the lease has passed to another slave.
            UnreachableError: the end of a lease is not durable yet.
        """
        # Another thread may see a lease that ends at this moment.
        lease = self._by_incarnation.get(incarnation)
        if lease is not None and lease.incarnation == incarnation:
            return lease
        if self.unsettled:
            # A master that starts again may know the lease, and must not have called its holder fenced.
            raise UnreachableError(f"incarnation {incarnation}: the leases are not written yet; ask again")
        raise fenced(incarnation)

    def check_progress(self, next_batch: int) -> None:
        """Check the first batch that a slave claims to lack.

        Raises:
            MalformedError: the batch is beyond the end of the run.
        """
        # The next batch of one of R replicas may lie R - 1 past the last batch.
        check_batch(next_batch, min(self._batch_bound + max(self.seating.replicas) - 1, MOST))

    def _grown(self, lease: Lease, telemetry: Telemetry) -> Telemetry:
        """Check telemetry; a batch that arrives late never takes the progress back."""
        self.check_progress(telemetry.next_batch)
        reached = max(telemetry.next_batch, lease.telemetry.next_batch)
        return dataclasses.replace(telemetry, next_batch=reached)

    def neighbours(self, incarnation: int, known: int) -> tuple[int, list[Peer]]:
        """Version of a slave's neighbours, and the neighbours unless the slave knows the version.

        Only a grant makes a new version. The version is the durable count of grants, so two masters of a run
        never give one number to different neighbours. Vacant seats, and slaves without an address (profile
        `light`), are left out.

        Args:
            incarnation: of the asking slave.
            known: version that the slave has.

        Raises:
            FencedError: the lease has passed to another slave.
        """
        seat = self.seat(incarnation)
        if known == self._incarnations:
            return known, []
        found = [
            Peer(
                lease.layer,
                lease.replica,
                lease.incarnation,
                lease.slave.address,
                self._keyring.pair(incarnation, lease.incarnation),
            )
            for lease in self._leases
            if lease.incarnation and lease.slave.address and self._meet(seat, lease)
        ]
        return self._incarnations, found

    def _meet(self, one: Lease, other: Lease) -> bool:
        """Whether the slaves on two seats send each other messages."""
        here, there = ((lease.layer, lease.replica) for lease in (one, other))
        return meet(here, there, self.seating.replicas, broadcasts=self._broadcasts)

    def listed(self) -> tuple[int, list[ListedLease]]:
        """Number of grants so far, and the leases that stand, as stores know them."""
        return self._incarnations, [
            ListedLease(lease.incarnation, lease.layer, lease.replica, lease.proof, lease.certificate)
            for lease in self._leases
            if lease.incarnation
        ]

    def seats(self, now: float) -> list[Seat]:
        """Every seat, as a message."""
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
                now - lease.moved if lease.incarnation and not lease.done else 0.0,
                lease.telemetry.steps > 0,
            )
            for lease in self._leases
        ]

    def dump(self, now: float) -> dict[str, Any]:
        """Values that must outlive the master, plain for JSON."""
        return {
            "incarnations": self._incarnations,
            "training_seconds": self.training_seconds(now),
            "leases": [to_plain(lease) for lease in self.seating.all()],
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        COUNT.check(saved["incarnations"], "the saved number of incarnations")
        self._incarnations = saved["incarnations"]
        self._earlier_seconds = saved["training_seconds"]
        by_seat = {(lease["layer"], lease["replica"]): lease for lease in saved["leases"]}
        self.seating.rest(by_seat)
        for lease in self.seating.all():
            old = by_seat.get((lease.layer, lease.replica))
            if old:
                for name in ("incarnation", "grants", "gone", "done"):
                    setattr(lease, name, old[name])
                lease.proof, lease.certificate = old.get("proof", ""), old.get("certificate", "")
                lease.slave = dataclasses.replace(restore(JoinRequest, old["slave"]), holdings=Holdings())
                lease.retired, lease.telemetry = restore_telemetry(old)
        self._by_incarnation = {lease.incarnation: lease for lease in self._leases if lease.incarnation}

    def _note_beginning(self, now: float) -> None:
        if self._began is None and self.complete and not self.over:
            self._began = now

    def _grant(self, lease: Lease, request: JoinRequest, certificate: str) -> LeaseEvent:
        self._incarnations += 1
        lease.incarnation, lease.grants = self._incarnations, lease.grants + 1
        lease.proof = hash_secret(self._keyring.lease(lease.incarnation, request.key))
        lease.slave, lease.certificate = dataclasses.replace(request, key=""), certificate
        lease.beat = 0
        self._by_incarnation[lease.incarnation] = lease
        if not lease.gone:
            return self._event("joined", lease)
        return self._event("replaced", lease, lease.gone)

    def _vacate(self, lease: Lease, kind: str, reason: str) -> LeaseEvent:
        event = self._event(kind, lease, reason)
        last = f"incarnation {lease.incarnation}, {lease.slave.slave}: {kind}, {reason or 'no reason given'}"
        # Slaves that a rollback fences come again: nobody is replaced.
        lease.gone = "" if kind == "fenced" else last
        lease.retired, lease.telemetry = lease.total(), Telemetry()
        self._by_incarnation.pop(lease.incarnation, None)
        self.seating.keep(lease)
        lease.incarnation, lease.slave, lease.proof, lease.certificate = 0, JoinRequest(), "", ""
        # The layer below may lack the slave's answer to END: until all are done, the seat needs a slave.
        lease.done = lease.done and self.seating.passed
        return event

    def _event(self, kind: str, lease: Lease, reason: str = "") -> LeaseEvent:
        return LeaseEvent(kind, lease.layer, lease.replica, lease.incarnation, lease.slave.slave, reason)

    def _state(self, lease: Lease, now: float) -> str:
        if lease.done:
            return "done"
        if not lease.incarnation:
            return "vacant"
        return "late" if now - lease.seen > 1.5 * self._interval else "training"
