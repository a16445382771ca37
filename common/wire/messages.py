"""Messages between master, slaves and readers, as plain values; converted to bytes by `common.wire`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from common.shards.pushes import Buffer
from common.shards.table import Table
from common.wire.counters import Counters, LayerPushes
from common.wire.curriculum import Curriculum, Score
from common.wire.stages import Promise, Resizing, Stage
from common.wire.stores import StoreState
from common.wire.use import Utilization


class BoundaryKind(IntEnum):
    """Kind of a boundary message."""

    BOUNDARY_KIND_UNSPECIFIED = 0
    ACTIVATION = 3
    GRADIENT = 4
    LOST = 5
    END = 6
    PEER = 7
    ENDED = 8
    PAIR = 9
    TAKEN = 10
    REFUSED = 11
    OUTPUT_GRADIENT = 12


@dataclass(frozen=True, slots=True)
class BoundaryMessage:
    """Message between neighbouring layers; `data` holds the tensors of `table`."""

    kind: BoundaryKind
    layer: int
    replica: int = 0
    batch: int = 0
    incarnation: int = 0
    version: int = 0
    table: Table = field(default_factory=lambda: Table((), 0))
    data: Buffer = b""
    sender: int = 0
    run: str = ""
    reason: str = ""
    proof: str = field(default="", repr=False)
    sender_layer: int = 0


class SynthesisKind(IntEnum):
    """Kind of a message of served synthesis."""

    SYNTHESIS_KIND_UNSPECIFIED = 0
    ASK = 1
    LEARN = 2
    SETTLE = 3
    SYNTHETIC = 4
    SETTLED = 5


@dataclass(frozen=True, slots=True)
class SynthesisMessage:
    """Message between a slave and the master's M or I; `data` holds the tensors of `table`."""

    kind: SynthesisKind
    synthesizer: str = "gradient"
    batch: int = 0
    incarnation: int = 0
    classes: int = 0
    loss: float = 0.0
    shape: list[int] = field(default_factory=list)
    table: Table = field(default_factory=lambda: Table((), 0))
    data: Buffer = b""


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """Request for the run's configuration."""


@dataclass(frozen=True, slots=True)
class DescribeReply:
    """Configuration as TOML with its cuts, port for shards, and the master's versions and epoch seconds."""

    config: str = ""
    over: bool = False
    bulk_port: int = 0
    time: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReachRequest:
    """Request to connect to an address, and to expect the token from there."""

    address: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class ReachReply:
    """Answer to a request to connect: whether the token came."""

    reached: bool = False


@dataclass(frozen=True, slots=True)
class Holdings:
    """Data and user's files of a process, equal in all processes of a run, and the versions.

    Data by array have dtype, shape and digest; files by key of the configuration and name have a digest.
    """

    data: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgreeRequest:
    """Request to compare the holdings of a process without a lease with those of the run's slaves."""

    host: str = ""
    holdings: Holdings = field(default_factory=Holdings)


@dataclass(frozen=True, slots=True)
class AgreeReply:
    """Agreement of the holdings; `warning` names a difference that is no reason to refuse."""

    warning: str = ""


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """Request for a lease; `slave` is unique to the process, `key` its secret, `address` for neighbours.

    `work` has the counted work of each layer's batch, once the slave has counted.
    """

    slave: str = ""
    host: str = ""
    pid: int = 0
    device: str = ""
    address: str = ""
    metrics: str = ""
    holdings: Holdings = field(default_factory=Holdings)
    key: str = field(default="", repr=False)
    speed: float = 0.0
    work: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class JoinReply:
    """A lease on (layer, replica), and its secret; neither granted nor over: the slave asks again.

    `dealing`: the first seats are not dealt yet.
    """

    granted: bool = False
    over: bool = False
    layer: int = 0
    replica: int = 0
    incarnation: int = 0
    next_batch: int = 0
    run: str = ""
    warning: str = ""
    secret: str = field(default="", repr=False)
    curriculum: Curriculum = field(default_factory=Curriculum)
    reader: str = field(default="", repr=False)
    replicas: list[int] = field(default_factory=list)
    end: int = 0
    dealing: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """The slave on a seat, the slave's address for neighbours, and the secret of the pair with the asker."""

    layer: int = 0
    replica: int = 0
    incarnation: int = 0
    address: str = ""
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Work of a slave since the grant of the lease: seconds, bytes, running means per example."""

    steps: int = 0
    next_batch: int = 0
    lost_batches: int = 0
    in_flight: int = 0
    step_seconds: float = 0.0
    waiting_seconds: float = 0.0
    delays: dict[int, int] = field(default_factory=dict)
    loss: float = 0.0
    gradient_loss: float = 0.0
    gradient_cosine: float = 0.0
    samples_per_second: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    done: bool = False
    pulls: int = 0
    gradient_norm_ratio: float = 0.0
    input_loss: float = 0.0
    fallback: bool = False
    utilization: Utilization = field(default_factory=Utilization)
    waits: bool = False
    refused_from_below: int = 0
    refused_from_above: int = 0
    lost_states: int = 0
    push_steps: int = 0
    time_loss: float = 0.0
    time_cosine: float = 0.0
    time_norm_ratio: float = 0.0
    own_loss: float = 0.0
    time_aux_loss: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    """Renewal of a lease, with the version of the neighbours that the slave knows; of layer K, scores."""

    incarnation: int = 0
    beat: int = 0
    telemetry: Telemetry = field(default_factory=Telemetry)
    peers_version: int = 0
    scores: list[Score] = field(default_factory=list)
    promise: Promise = field(default_factory=Promise)


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """Answer to a heartbeat: end of the run; new neighbours; levels; for `full`, begin and stop.

    For a change of the number of replicas: number of a question, end of the stage, return of the lease.
    """

    over: bool = False
    peers_version: int = 0
    peers: list[Peer] = field(default_factory=list)
    begin: bool = False
    stop: bool = False
    curriculum: Curriculum = field(default_factory=Curriculum)
    hold: int = 0
    end: int = 0
    rejoin: bool = False


@dataclass(frozen=True, slots=True)
class LeaveRequest:
    """Return of a lease."""

    incarnation: int = 0
    reason: str = ""
    telemetry: Telemetry = field(default_factory=Telemetry)


@dataclass(frozen=True, slots=True)
class LeaveReply:
    """Confirmation that the lease is free."""


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Request for the status of the run."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One (layer, replica) and the slave that holds its lease; `state` is vacant, training, late or done."""

    layer: int = 0
    replica: int = 0
    state: str = "vacant"
    slave: str = ""
    host: str = ""
    pid: int = 0
    device: str = ""
    incarnation: int = 0
    lease_age: float = 0.0
    beat: int = 0
    grants: int = 0
    telemetry: Telemetry = field(default_factory=Telemetry)
    still_seconds: float = 0.0
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Test loss and metrics of f_1..f_K at a vector of versions; a task without errors has no test error."""

    batches: int = 0
    test_error_percent: float | None = None
    test_loss: float = 0.0
    versions: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReportReply:
    """Confirmation that the master has recorded the evaluation."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Description of a snapshot; `damage` says why it cannot be used, if that is known."""

    number: int = 0
    time: float = 0.0
    nbytes: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    damage: str = ""


@dataclass(frozen=True, slots=True)
class StatusReply:
    """Status of the run; `state` is waiting, training or done."""

    name: str = ""
    state: str = "waiting"
    batches: int = 0
    of_batches: int = 0
    waiting_slaves: int = 0
    training_seconds: float = 0.0
    starts: int = 0
    seats: list[Seat] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    delays: dict[int, int] = field(default_factory=dict)
    waiting_fraction: dict[int, float] = field(default_factory=dict)
    lost_batches: int = 0
    counters: Counters = field(default_factory=Counters)
    evaluation: Evaluation = field(default_factory=Evaluation)
    layers: list[LayerPushes] = field(default_factory=list)
    utilization: Utilization = field(default_factory=Utilization)
    snapshot: Kept = field(default_factory=Kept)
    snapshot_trouble: str = ""
    still_seconds: float = 0.0
    successors: int = 0
    lost_states: int = 0
    curriculum: Curriculum = field(default_factory=Curriculum)
    stores: list[StoreState] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    stage: int = 0
    resizing: Resizing = field(default_factory=Resizing)


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """Request to take a snapshot now."""


@dataclass(frozen=True, slots=True)
class SnapshotReply:
    """The new snapshot."""

    snapshot: Kept = field(default_factory=Kept)


@dataclass(frozen=True, slots=True)
class SnapshotsRequest:
    """Request for the list of snapshots."""


@dataclass(frozen=True, slots=True)
class SnapshotsReply:
    """All snapshots, oldest first."""

    snapshots: list[Kept] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """Request to roll the run back to a snapshot; 0 is the newest whole snapshot."""

    number: int = 0


@dataclass(frozen=True, slots=True)
class RollbackReply:
    """Result of a rollback: the snapshot, the versions given up as `before`, the leases ended as `fenced`."""

    snapshot: Kept = field(default_factory=Kept)
    before: dict[str, int] = field(default_factory=dict)
    fenced: int = 0
