"""Stores of a run: members, places of the shards, and the order that holds at all. No I/O and no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.errors import (
    FencedError,
    MalformedError,
    NotFoundError,
    RefusedError,
    RunFailedError,
    UnreachableError,
)
from common.shards.average import AVERAGE, WEIGHTS
from common.wire.ranges import COUNT, PLACE
from common.wire.saved import restore_number
from common.wire.stages import Stage
from common.wire.stores import (
    AttendRequest,
    ListedLease,
    LocateReply,
    ShardState,
    StoreOrder,
    StoreState,
    StoreTask,
    TaskKind,
    TaskResult,
)
from master.tally import SeatTally

# Orders of a master of the run; those of the next master have higher numbers.
ORDERS_OF_A_MASTER = 1 << 32
# Earlier processes of a store that are told so.
MOST_RETIRED = 16
# The first N names are the run's stores: names of others are no reason to keep anything.
LONGEST_NAME = 64


@dataclass
class Member:
    """Store of a run.

    Attributes:
        number: of the store, from 1.
        name: that its directory keeps.
        session: of the present process; empty until it reports.
        retired: sessions of earlier processes, as far as this master has seen them.
        report: the last one.
        shards: of the last report, by name.
        seen: time of the last sign of life; None before the first to this master.
        late: whether the event log calls it late.
    """

    number: int
    name: str
    session: str = ""
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_RETIRED))
    report: AttendRequest = field(default_factory=AttendRequest)
    shards: dict[str, ShardState] = field(default_factory=dict)
    seen: float | None = None
    late: bool = False


class Stores:
    """Members, places and orders.

    A call that only asks for an order is held for a heartbeat, so a store is late after one more heartbeat
    than a slave.

    Args:
        replicas: R_k of each layer.
        count: number of stores.
        patience: seconds of silence after which a store is late.
        epoch: number of this master among the run's masters.
        saved: values from an earlier master's `dump`.

    Raises:
        MalformedError: a saved number is out of range.
    """

    def __init__(
        self, replicas: list[int], count: int, patience: float, epoch: int, saved: dict[str, Any]
    ) -> None:
        # The present stage: its first batch, and R of each layer.
        self._start, self._replicas = 0, [*replicas]
        self._count = count
        self._patience = patience
        self._members = [Member(n, name) for n, name in enumerate(saved.get("members", []), 1)]
        # Number of the store and bytes of each shard.
        self._places: dict[str, tuple[int, int]] = {}
        # Bytes dealt to each store.
        self._dealt = dict.fromkeys(range(1, count + 1), 0)
        for shard, (number, nbytes) in saved.get("places", {}).items():
            PLACE.check(number, f"the store of {shard}")
            self._places[shard] = number, restore_number(nbytes, f"the bytes of {shard}", COUNT)
            self._dealt[number] = self._dealt.get(number, 0) + nbytes
        self._order = StoreOrder(epoch * ORDERS_OF_A_MASTER)
        self._tasks = epoch * ORDERS_OF_A_MASTER

    def deal(self, start: int, replicas: Sequence[int]) -> None:
        """Count with pushes of other replicas, R by layer, from a batch on that no shard lacks.

        Stores learn of the stage with the next list of leases.
        """
        self._start, self._replicas = start, [*replicas]

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return Stage(self._start, self._replicas)

    def dump(self) -> dict[str, Any]:
        """Values that must outlive the master, plain for JSON."""
        return {
            "members": [member.name for member in self._members],
            "places": {shard: list(place) for shard, place in self._places.items()},
        }

    def attend(self, request: AttendRequest, now: float) -> list[dict[str, Any]]:
        """Take a store's report; returns lines for the event log, some of which change `dump`.

        Raises:
            MalformedError: the store has no name or session.
            RefusedError: the run has its stores already.
            FencedError: another process has taken over the store's directory.
        """
        if not (0 < len(request.store) <= LONGEST_NAME and 0 < len(request.session) <= LONGEST_NAME):
            raise MalformedError(f"a store reports under a name and a session, of {LONGEST_NAME} characters")
        lines = []
        member = next((each for each in self._members if each.name == request.store), None)
        if member is None:
            if len(self._members) >= self._count:
                raise RefusedError(
                    f"the run has its {self._count} stores (cluster.stores); start this one with the "
                    "--state-dir of a store of the run"
                )
            member = Member(len(self._members) + 1, request.store)
            self._members.append(member)
        if request.session in member.retired:
            raise FencedError(f"another process is store {member.number} now; stop this one")
        if request.session != member.session:
            member.retired += [member.session] if member.session else []
            member.session = request.session
            lines.append(_line("store joined", member, host=request.host, address=request.address))
        elif member.late:
            lines.append(_line("store back", member))
        member.report, member.seen, member.late = request, now, False
        member.shards = {shard.name: shard for shard in request.shards}
        return lines

    def note_answer(self, store: str, session: str, now: float) -> None:
        """Note that a store's call, held until now, is being answered."""
        for member in self._members:
            if (member.name, member.session) == (store, session):
                member.seen = now

    def tick(self, now: float) -> list[dict[str, Any]]:
        """Look for stores that are silent; returns lines for the event log."""
        lines = []
        for member in self._members:
            if not member.late and member.seen is not None and now - member.seen > self._patience:
                member.late = True
                lines.append(_line("store late", member, why=f"silent for {now - member.seen:.1f} s"))
        return lines

    def publish(self, incarnations: int, leases: list[ListedLease], stage: Stage) -> bool:
        """Order every store to know these leases and the present stage, which are durable.

        Return whether the order is new.
        """
        order = self._order
        known = replace(order, incarnations=incarnations, leases=leases, stage=stage)
        if known == order and order.number % ORDERS_OF_A_MASTER:
            return False
        self._order = replace(known, number=order.number + 1)
        return True

    def assign(self, kind: TaskKind, snapshot: int = 0, kept: list[int] | None = None) -> int:
        """Order every store to do a task, in the place of the task before; returns the task's number.

        The task stands until `dismiss`, for stores that start again meanwhile.
        """
        self._tasks += 1
        self._set_task(StoreTask(self._tasks, kind, snapshot, kept or []))
        return self._tasks

    def dismiss(self) -> None:
        """End the task: a store that starts from now on has none to do."""
        self._set_task(StoreTask())

    def _set_task(self, task: StoreTask) -> None:
        self._order = replace(self._order, number=self._order.number + 1, task=task)

    def works(self, store: str) -> bool:
        """Whether a store has a task to come to the end of."""
        task = self._order.task.number
        return any(m.name == store and m.report.result.number != task for m in self._members if task)

    def results(self, task: int, now: float) -> list[TaskResult] | None:
        """Results of a task of all stores; None until all have come to the end.

        Raises:
            UnreachableError: a store is missing or late, so that the task cannot end now.
            RunFailedError: a store cannot do the task.
        """
        self.check_present(now)
        for member in self._members:
            result = member.report.result
            if result.number == task and result.failure:
                raise RunFailedError(f"store {member.number}: {result.failure}")
        found = [member.report.result for member in self._members]
        return found if all(result.number == task for result in found) else None

    def newest_part(self) -> int:
        """Highest number of a snapshot of which a store has reported a part."""
        return max((number for m in self._members for number in m.report.snapshots), default=0)

    def damage(self) -> str:
        """Describe damage in a store for which the run must go back to a snapshot; empty without."""
        for member in self._members:
            if member.report.trouble:
                return f"store {member.number}: {member.report.trouble}"
        return ""

    @property
    def order(self) -> StoreOrder:
        """The present order, the same for every store."""
        return self._order

    def number_of(self, store: str) -> int:
        """Number of a store by its name.

        Raises:
            NotFoundError: no store has the name.
        """
        for member in self._members:
            if member.name == store:
                return member.number
        raise NotFoundError(f"no store of the run is called {store}")

    def check_complete(self) -> None:
        """Refuse while stores are missing: the first would get every shard.

        Raises:
            UnreachableError: fewer stores have joined than the run has.
        """
        if len(self._members) < self._count:
            raise UnreachableError(
                f"{len(self._members)} of {self._count} stores (cluster.stores) have joined; start another "
                "by `layerwise store`"
            )

    def check_present(self, now: float) -> None:
        """Refuse while a store is away: what all of them have, or do, is not known.

        Raises:
            UnreachableError: a store is missing or late.
        """
        self.check_complete()
        for member in self._members:
            if member.seen is None or now - member.seen > self._patience:
                raise UnreachableError(f"store {member.number} is away; start the store on its directory")

    def behind(self, layer: int, order: int) -> list[int]:
        """Numbers of the stores with shards of a layer that have not reported an order yet."""
        holders = {number for shard, (number, _) in self._places.items() if _layer(shard) == layer}
        return [m.number for m in self._members if m.number in holders and m.report.order < order]

    def knows(self, shard: str) -> bool:
        """Whether a shard has a place."""
        return shard in self._places

    def place(self, shard: str, nbytes: int) -> LocateReply:
        """Deal a shard to the store with the fewest bytes, unless it has a place; changes `dump`.

        Raises:
            UnreachableError: stores are missing.
        """
        if shard not in self._places:
            self.check_complete()
            number = deal(self._dealt)
            self._places[shard] = number, nbytes
            self._dealt[number] += nbytes
        return self.locate(shard)

    def locate(self, shard: str) -> LocateReply:
        """Find the store of a shard; the average of weights is where the weights are.

        Raises:
            NotFoundError: the shard has no place.
            UnreachableError: the store has not reported to this master yet.
        """
        layer, _, kind = shard.partition("/")
        wanted = f"{layer}/{WEIGHTS}" if kind == AVERAGE else shard
        if wanted not in self._places:
            raise NotFoundError(f'there is no shard "{shard}" in a store')
        number, _ = self._places[wanted]
        member = next((each for each in self._members if each.number == number), None)
        if member is None or member.seen is None:
            raise UnreachableError(f"store {number}, which has {wanted}, is away; start it on its directory")
        return LocateReply(number, member.report.address)

    def versions(self) -> dict[str, int]:
        """Version of every shard, as the stores last reported."""
        found = {name: shard.version for member in self._members for name, shard in member.shards.items()}
        return dict(sorted(found.items()))

    def next_batch(self, name: str, replica: int | None = None) -> int:
        """First batch missing in a shard, of a replica or of every replica, as last reported."""
        number, _ = self._places.get(name, (0, 0))
        for member in self._members:
            if member.number == number and name in member.shards:
                progress = member.shards[name].progress
                own = range(self._replicas[_layer(name) - 1]) if replica is None else [replica]
                return max(self._start, min(progress.get(each, 0) for each in own))
        return self._start

    def seat(self, layer: int, replica: int) -> SeatTally:
        """Pushes and pulls of a seat in all stores, as last reported."""
        total = SeatTally()
        for seat in (each for member in self._members for each in member.report.seats):
            if (seat.layer, seat.replica) == (layer, replica):
                total.pushes += seat.pushes
                total.pulls += seat.pulls
                total.duplicate_pushes += seat.duplicate_pushes
                total.refused_pushes += seat.refused_pushes
                total.staleness.update(seat.staleness)
        return total

    def reports(self) -> list[AttendRequest]:
        """The last report of each store."""
        return [member.report for member in self._members]

    def states(self, now: float) -> list[StoreState]:
        """Every store, as a message; those that have not joined, too."""
        return [self._state(number, now) for number in range(1, self._count + 1)]

    def _state(self, number: int, now: float) -> StoreState:
        member = self._members[number - 1] if number <= len(self._members) else None
        if member is None or member.seen is None:
            return StoreState(number)
        shards = {shard: nbytes for shard, (place, nbytes) in self._places.items() if place == number}
        report, age = member.report, now - member.seen
        return StoreState(
            number,
            "late" if age > self._patience else "serving",
            report.host,
            report.pid,
            report.address,
            age,
            sorted(shards),
            sum(shards.values()),
            report.counters,
            report.utilization,
            report.trouble,
        )


def deal(dealt: Mapping[int, int]) -> int:
    """Choose the store for a further shard: the one with the fewest bytes, of equals the lowest number."""
    return min(dealt, key=lambda number: (dealt[number], number))


def _layer(shard: str) -> int:
    return int(shard.partition("/")[0])


def _line(event: str, member: Member, **facts: Any) -> dict[str, Any]:
    return {"event": event, "store": member.number, **facts}
