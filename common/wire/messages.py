"""What master, slaves and readers say to each other, as plain values. `common.wire` turns them into bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from common.shards.pushes import Buffer
from common.shards.table import Table


class BoundaryKind(IntEnum):
    """What a boundary message says."""

    BOUNDARY_KIND_UNSPECIFIED = 0
    ACTIVATION = 3
    GRADIENT = 4
    LOST = 5
    END = 6
    PEER = 7
    ENDED = 8
    PAIR = 9
    TAKEN = 10


@dataclass(frozen=True, slots=True)
class BoundaryMessage:
    """Between neighbouring layers; `data` holds the tensors of `table`."""

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


class SynthesisKind(IntEnum):
    """What a message of served synthesis says."""

    SYNTHESIS_KIND_UNSPECIFIED = 0
    ASK = 1
    LEARN = 2
    SETTLE = 3
    SYNTHETIC = 4
    SETTLED = 5


@dataclass(frozen=True, slots=True)
class SynthesisMessage:
    """Between a slave and what the master runs for it; `data` holds the tensors of `table`."""

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
    """Asks for the run's configuration."""


@dataclass(frozen=True, slots=True)
class DescribeReply:
    """The run's configuration as TOML, its cuts resolved; and the port that serves shards."""

    config: str = ""
    over: bool = False
    bulk_port: int = 0


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """Asks for a lease; `slave` is unique to the process, `address` is where its neighbours reach it."""

    slave: str = ""
    host: str = ""
    pid: int = 0
    device: str = ""
    address: str = ""
    metrics: str = ""


@dataclass(frozen=True, slots=True)
class JoinReply:
    """A lease on (layer, replica) of a run; not granted and not over: wait and ask again."""

    granted: bool = False
    over: bool = False
    layer: int = 0
    replica: int = 0
    incarnation: int = 0
    next_batch: int = 0
    run: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """The slave on a seat, and where its neighbours reach it."""

    layer: int = 0
    replica: int = 0
    incarnation: int = 0
    address: str = ""


@dataclass(frozen=True, slots=True)
class Utilization:
    """How busy a process and its machine are; of the GPU None where there is none, or no library for it."""

    cpu_percent: float = 0.0
    rss_bytes: int = 0
    host_cpu_percent: float = 0.0
    memory_percent: float = 0.0
    disk_percent: float = 0.0
    gpu_percent: float | None = None
    gpu_memory_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a slave has done since its lease was granted; seconds, bytes, running means an example."""

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


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    """Keeps a lease; `peers_version` is that of the neighbours that the slave knows."""

    incarnation: int = 0
    beat: int = 0
    telemetry: Telemetry = field(default_factory=Telemetry)
    peers_version: int = 0


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """Whether the slave may go; its neighbours, if others now; where no layer waits, to begin and to stop."""

    over: bool = False
    peers_version: int = 0
    peers: list[Peer] = field(default_factory=list)
    begin: bool = False
    stop: bool = False


@dataclass(frozen=True, slots=True)
class LeaveRequest:
    """Gives a lease back."""

    incarnation: int = 0
    reason: str = ""
    telemetry: Telemetry = field(default_factory=Telemetry)


@dataclass(frozen=True, slots=True)
class LeaveReply:
    """The lease is free."""


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Asks how the run goes."""


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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The chain f_1..f_K on the test set, at one vector of versions."""

    batches: int = 0
    test_error_percent: float = 0.0
    test_loss: float = 0.0
    versions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReportReply:
    """The evaluation was noted."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What the master has counted since it started on its state directory."""

    staleness: dict[int, int] = field(default_factory=dict)
    pushes: int = 0
    pulls: int = 0
    duplicate_pushes: int = 0
    fenced: int = 0
    malformed: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    refused_pushes: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """One snapshot; `damage` says why it cannot be used, where that is known."""

    number: int = 0
    time: float = 0.0
    nbytes: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    damage: str = ""


@dataclass(frozen=True, slots=True)
class LayerPushes:
    """The pushes of one layer's slaves: staleness -> how many were applied, and how many were refused."""

    layer: int = 0
    staleness: dict[int, int] = field(default_factory=dict)
    refused: int = 0


@dataclass(frozen=True, slots=True)
class StatusReply:
    """How the run goes; `state` is waiting, training or done."""

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


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """Asks for a snapshot now."""


@dataclass(frozen=True, slots=True)
class SnapshotReply:
    """The snapshot that was taken."""

    snapshot: Kept = field(default_factory=Kept)


@dataclass(frozen=True, slots=True)
class SnapshotsRequest:
    """Asks for the snapshots that there are."""


@dataclass(frozen=True, slots=True)
class SnapshotsReply:
    """The snapshots, oldest first."""

    snapshots: list[Kept] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """Asks to put the run back to a snapshot; 0 is the newest that is whole."""

    number: int = 0


@dataclass(frozen=True, slots=True)
class RollbackReply:
    """The run is where that snapshot was; `before` are the versions given up, `fenced` the leases ended."""

    snapshot: Kept = field(default_factory=Kept)
    before: dict[str, int] = field(default_factory=dict)
    fenced: int = 0
