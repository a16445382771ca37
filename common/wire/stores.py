"""Messages between master and stores, and about the places of shards, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from common.wire.counters import Counters, LayerPushes
from common.wire.stages import Stage
from common.wire.use import Utilization


class TaskKind(IntEnum):
    """Kind of a task: take a part of a snapshot, check it, restore the shards from it, or prune parts."""

    TASK_KIND_UNSPECIFIED = 0
    TAKE = 1
    CHECK = 2
    RESTORE = 3
    PRUNE = 4


@dataclass(frozen=True, slots=True)
class StoreTask:
    """Task for every store about a snapshot; number 0 for none. PRUNE leaves the parts of `kept`."""

    number: int = 0
    kind: TaskKind = TaskKind.TASK_KIND_UNSPECIFIED
    snapshot: int = 0
    kept: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Result of a task: why it failed, if so, and bytes and versions of the part."""

    number: int = 0
    failure: str = ""
    nbytes: int = 0
    versions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeatPushes:
    """Pushes and pulls of the slaves of a seat, and the staleness of the pushes."""

    layer: int = 0
    replica: int = 0
    pushes: int = 0
    pulls: int = 0
    duplicate_pushes: int = 0
    refused_pushes: int = 0
    staleness: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardState:
    """Shard in a store: version, first missing batch by replica, and bytes of the tensors."""

    name: str = ""
    version: int = 0
    progress: dict[int, int] = field(default_factory=dict)
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class AttendRequest:
    """Report of a store; `order` is the newest order that holds there, 0 since the start.

    `store` is the name that the directory keeps, `session` that of the process, `run` the run in the
    directory. `trouble` is damage for which the run goes back to a snapshot. `snapshots` are the numbers of
    the parts in the directory, `metrics` is the address of the store's pages.
    """

    store: str = ""
    session: str = ""
    run: str = ""
    host: str = ""
    pid: int = 0
    address: str = ""
    order: int = 0
    shards: list[ShardState] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    layers: list[LayerPushes] = field(default_factory=list)
    utilization: Utilization = field(default_factory=Utilization)
    trouble: str = ""
    snapshots: list[int] = field(default_factory=list)
    result: TaskResult = field(default_factory=TaskResult)
    seats: list[SeatPushes] = field(default_factory=list)
    metrics: str = ""


@dataclass(frozen=True, slots=True)
class ListedLease:
    """Lease as stores know it: incarnation, seat, hash of the secret, name of the holder's certificate."""

    incarnation: int = 0
    layer: int = 0
    replica: int = 0
    proof: str = ""
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class StoreOrder:
    """All that shall hold at a store, and its task; the leases cover the first `incarnations` grants.

    `stage` is the present one: pushes come from its replicas.
    """

    number: int = 0
    incarnations: int = 0
    leases: list[ListedLease] = field(default_factory=list)
    task: StoreTask = field(default_factory=StoreTask)
    stage: Stage = field(default_factory=Stage)


@dataclass(frozen=True, slots=True)
class AttendReply:
    """Answer to a report: name of the run, number of the store, the present order, and the reader's token."""

    run: str = ""
    number: int = 0
    order: StoreOrder = field(default_factory=StoreOrder)
    reader: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class LocateRequest:
    """Question for the place of a shard."""

    shard: str = ""


@dataclass(frozen=True, slots=True)
class LocateReply:
    """Place of a shard: number of the store and HOST:PORT; 0 and :PORT where the master has the shards."""

    store: int = 0
    address: str = ""


@dataclass(frozen=True, slots=True)
class PlaceRequest:
    """Request to deal a shard of `nbytes` bytes of tensors to a store."""

    incarnation: int = 0
    shard: str = ""
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class StoreState:
    """Store in a status; `state` is serving, late or awaited, `report_age` in seconds."""

    number: int = 0
    state: str = "awaited"
    host: str = ""
    pid: int = 0
    address: str = ""
    report_age: float = 0.0
    shards: list[str] = field(default_factory=list)
    nbytes: int = 0
    counters: Counters = field(default_factory=Counters)
    utilization: Utilization = field(default_factory=Utilization)
    trouble: str = ""
