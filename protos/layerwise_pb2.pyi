from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_UNSPECIFIED: _ClassVar[Operation]
    CREATE: _ClassVar[Operation]
    UPDATE: _ClassVar[Operation]
    VALUE: _ClassVar[Operation]
    ACCRUED_GRADIENT: _ClassVar[Operation]
    MOVING: _ClassVar[Operation]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLOAT32: _ClassVar[Precision]
    BFLOAT16: _ClassVar[Precision]
    INT8: _ClassVar[Precision]

class BoundaryKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOUNDARY_KIND_UNSPECIFIED: _ClassVar[BoundaryKind]
    ACTIVATION: _ClassVar[BoundaryKind]
    GRADIENT: _ClassVar[BoundaryKind]
    LOST: _ClassVar[BoundaryKind]
    END: _ClassVar[BoundaryKind]
    PEER: _ClassVar[BoundaryKind]
    ENDED: _ClassVar[BoundaryKind]
    PAIR: _ClassVar[BoundaryKind]
    TAKEN: _ClassVar[BoundaryKind]
    REFUSED: _ClassVar[BoundaryKind]
    OUTPUT_GRADIENT: _ClassVar[BoundaryKind]

class SynthesisKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SYNTHESIS_KIND_UNSPECIFIED: _ClassVar[SynthesisKind]
    ASK: _ClassVar[SynthesisKind]
    LEARN: _ClassVar[SynthesisKind]
    SETTLE: _ClassVar[SynthesisKind]
    SYNTHETIC: _ClassVar[SynthesisKind]
    SETTLED: _ClassVar[SynthesisKind]

class TaskKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_KIND_UNSPECIFIED: _ClassVar[TaskKind]
    TAKE: _ClassVar[TaskKind]
    CHECK: _ClassVar[TaskKind]
    RESTORE: _ClassVar[TaskKind]
    PRUNE: _ClassVar[TaskKind]
OPERATION_UNSPECIFIED: Operation
CREATE: Operation
UPDATE: Operation
VALUE: Operation
ACCRUED_GRADIENT: Operation
MOVING: Operation
FLOAT32: Precision
BFLOAT16: Precision
INT8: Precision
BOUNDARY_KIND_UNSPECIFIED: BoundaryKind
ACTIVATION: BoundaryKind
GRADIENT: BoundaryKind
LOST: BoundaryKind
END: BoundaryKind
PEER: BoundaryKind
ENDED: BoundaryKind
PAIR: BoundaryKind
TAKEN: BoundaryKind
REFUSED: BoundaryKind
OUTPUT_GRADIENT: BoundaryKind
SYNTHESIS_KIND_UNSPECIFIED: SynthesisKind
ASK: SynthesisKind
LEARN: SynthesisKind
SETTLE: SynthesisKind
SYNTHETIC: SynthesisKind
SETTLED: SynthesisKind
TASK_KIND_UNSPECIFIED: TaskKind
TAKE: TaskKind
CHECK: TaskKind
RESTORE: TaskKind
PRUNE: TaskKind

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape", "offset", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    offset: int
    kind: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., offset: _Optional[int] = ..., kind: _Optional[str] = ...) -> None: ...

class Table(_message.Message):
    __slots__ = ("tensors", "nbytes")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    nbytes: int
    def __init__(self, tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., nbytes: _Optional[int] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("shard", "operation", "version", "incarnation", "sequence", "next_batch", "table", "replica", "fetched_sequence", "precision", "fragment", "fragments")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_BATCH_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    FETCHED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    FRAGMENTS_FIELD_NUMBER: _ClassVar[int]
    shard: str
    operation: Operation
    version: int
    incarnation: int
    sequence: int
    next_batch: int
    table: Table
    replica: int
    fetched_sequence: int
    precision: Precision
    fragment: int
    fragments: int
    def __init__(self, shard: _Optional[str] = ..., operation: _Optional[_Union[Operation, str]] = ..., version: _Optional[int] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ..., next_batch: _Optional[int] = ..., table: _Optional[_Union[Table, _Mapping]] = ..., replica: _Optional[int] = ..., fetched_sequence: _Optional[int] = ..., precision: _Optional[_Union[Precision, str]] = ..., fragment: _Optional[int] = ..., fragments: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("header", "offset", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: Header
    offset: int
    data: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("shard", "version", "sequence", "staleness", "applied", "refused")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    shard: str
    version: int
    sequence: int
    staleness: int
    applied: bool
    refused: bool
    def __init__(self, shard: _Optional[str] = ..., version: _Optional[int] = ..., sequence: _Optional[int] = ..., staleness: _Optional[int] = ..., applied: bool = ..., refused: bool = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("shard", "incarnation", "moving", "fragment", "fragments")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MOVING_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    FRAGMENTS_FIELD_NUMBER: _ClassVar[int]
    shard: str
    incarnation: int
    moving: bool
    fragment: int
    fragments: int
    def __init__(self, shard: _Optional[str] = ..., incarnation: _Optional[int] = ..., moving: bool = ..., fragment: _Optional[int] = ..., fragments: _Optional[int] = ...) -> None: ...

class BoundaryMessage(_message.Message):
    __slots__ = ("kind", "layer", "replica", "batch", "incarnation", "version", "table", "data", "sender", "run", "reason", "proof", "sender_layer")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    SENDER_LAYER_FIELD_NUMBER: _ClassVar[int]
    kind: BoundaryKind
    layer: int
    replica: int
    batch: int
    incarnation: int
    version: int
    table: Table
    data: bytes
    sender: int
    run: str
    reason: str
    proof: str
    sender_layer: int
    def __init__(self, kind: _Optional[_Union[BoundaryKind, str]] = ..., layer: _Optional[int] = ..., replica: _Optional[int] = ..., batch: _Optional[int] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., table: _Optional[_Union[Table, _Mapping]] = ..., data: _Optional[bytes] = ..., sender: _Optional[int] = ..., run: _Optional[str] = ..., reason: _Optional[str] = ..., proof: _Optional[str] = ..., sender_layer: _Optional[int] = ...) -> None: ...

class SynthesisMessage(_message.Message):
    __slots__ = ("kind", "synthesizer", "batch", "incarnation", "classes", "loss", "shape", "table", "data")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SYNTHESIZER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    kind: SynthesisKind
    synthesizer: str
    batch: int
    incarnation: int
    classes: int
    loss: float
    shape: _containers.RepeatedScalarFieldContainer[int]
    table: Table
    data: bytes
    def __init__(self, kind: _Optional[_Union[SynthesisKind, str]] = ..., synthesizer: _Optional[str] = ..., batch: _Optional[int] = ..., incarnation: _Optional[int] = ..., classes: _Optional[int] = ..., loss: _Optional[float] = ..., shape: _Optional[_Iterable[int]] = ..., table: _Optional[_Union[Table, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("config", "over", "bulk_port", "time", "versions")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    BULK_PORT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    config: str
    over: bool
    bulk_port: int
    time: float
    versions: _containers.ScalarMap[str, str]
    def __init__(self, config: _Optional[str] = ..., over: bool = ..., bulk_port: _Optional[int] = ..., time: _Optional[float] = ..., versions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ReachRequest(_message.Message):
    __slots__ = ("address", "token")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    address: str
    token: str
    def __init__(self, address: _Optional[str] = ..., token: _Optional[str] = ...) -> None: ...

class ReachReply(_message.Message):
    __slots__ = ("reached",)
    REACHED_FIELD_NUMBER: _ClassVar[int]
    reached: bool
    def __init__(self, reached: bool = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("slave", "host", "pid", "device", "address", "metrics", "holdings", "key", "speed", "work")
    SLAVE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    slave: str
    host: str
    pid: int
    device: str
    address: str
    metrics: str
    holdings: Holdings
    key: str
    speed: float
    work: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, slave: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., device: _Optional[str] = ..., address: _Optional[str] = ..., metrics: _Optional[str] = ..., holdings: _Optional[_Union[Holdings, _Mapping]] = ..., key: _Optional[str] = ..., speed: _Optional[float] = ..., work: _Optional[_Iterable[float]] = ...) -> None: ...

class Holdings(_message.Message):
    __slots__ = ("data", "files", "versions")
    class DataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DATA_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    data: _containers.ScalarMap[str, str]
    files: _containers.ScalarMap[str, str]
    versions: _containers.ScalarMap[str, str]
    def __init__(self, data: _Optional[_Mapping[str, str]] = ..., files: _Optional[_Mapping[str, str]] = ..., versions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class AgreeRequest(_message.Message):
    __slots__ = ("host", "holdings")
    HOST_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    host: str
    holdings: Holdings
    def __init__(self, host: _Optional[str] = ..., holdings: _Optional[_Union[Holdings, _Mapping]] = ...) -> None: ...

class AgreeReply(_message.Message):
    __slots__ = ("warning",)
    WARNING_FIELD_NUMBER: _ClassVar[int]
    warning: str
    def __init__(self, warning: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("granted", "over", "layer", "replica", "incarnation", "next_batch", "run", "warning", "secret", "curriculum", "reader", "replicas", "end", "dealing")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NEXT_BATCH_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    CURRICULUM_FIELD_NUMBER: _ClassVar[int]
    READER_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    DEALING_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    over: bool
    layer: int
    replica: int
    incarnation: int
    next_batch: int
    run: str
    warning: str
    secret: str
    curriculum: Curriculum
    reader: str
    replicas: _containers.RepeatedScalarFieldContainer[int]
    end: int
    dealing: bool
    def __init__(self, granted: bool = ..., over: bool = ..., layer: _Optional[int] = ..., replica: _Optional[int] = ..., incarnation: _Optional[int] = ..., next_batch: _Optional[int] = ..., run: _Optional[str] = ..., warning: _Optional[str] = ..., secret: _Optional[str] = ..., curriculum: _Optional[_Union[Curriculum, _Mapping]] = ..., reader: _Optional[str] = ..., replicas: _Optional[_Iterable[int]] = ..., end: _Optional[int] = ..., dealing: bool = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("start", "replicas")
    START_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    start: int
    replicas: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, start: _Optional[int] = ..., replicas: _Optional[_Iterable[int]] = ...) -> None: ...

class Promise(_message.Message):
    __slots__ = ("question", "batch")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    question: int
    batch: int
    def __init__(self, question: _Optional[int] = ..., batch: _Optional[int] = ...) -> None: ...

class Resizing(_message.Message):
    __slots__ = ("replicas", "missing", "start")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedScalarFieldContainer[int]
    missing: int
    start: int
    def __init__(self, replicas: _Optional[_Iterable[int]] = ..., missing: _Optional[int] = ..., start: _Optional[int] = ...) -> None: ...

class ResizeRequest(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, replicas: _Optional[_Iterable[int]] = ...) -> None: ...

class ResizeReply(_message.Message):
    __slots__ = ("replicas", "resizing")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    RESIZING_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedScalarFieldContainer[int]
    resizing: Resizing
    def __init__(self, replicas: _Optional[_Iterable[int]] = ..., resizing: _Optional[_Union[Resizing, _Mapping]] = ...) -> None: ...

class Curriculum(_message.Message):
    __slots__ = ("starts", "decided")
    STARTS_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    starts: _containers.RepeatedScalarFieldContainer[int]
    decided: int
    def __init__(self, starts: _Optional[_Iterable[int]] = ..., decided: _Optional[int] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("block", "bits", "answers")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    block: int
    bits: float
    answers: int
    def __init__(self, block: _Optional[int] = ..., bits: _Optional[float] = ..., answers: _Optional[int] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("layer", "replica", "incarnation", "address", "secret")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    layer: int
    replica: int
    incarnation: int
    address: str
    secret: str
    def __init__(self, layer: _Optional[int] = ..., replica: _Optional[int] = ..., incarnation: _Optional[int] = ..., address: _Optional[str] = ..., secret: _Optional[str] = ...) -> None: ...

class Utilization(_message.Message):
    __slots__ = ("cpu_percent", "rss_bytes", "host_cpu_percent", "memory_percent", "disk_percent", "gpu_percent", "gpu_memory_percent")
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    DISK_PERCENT_FIELD_NUMBER: _ClassVar[int]
    GPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    cpu_percent: float
    rss_bytes: int
    host_cpu_percent: float
    memory_percent: float
    disk_percent: float
    gpu_percent: float
    gpu_memory_percent: float
    def __init__(self, cpu_percent: _Optional[float] = ..., rss_bytes: _Optional[int] = ..., host_cpu_percent: _Optional[float] = ..., memory_percent: _Optional[float] = ..., disk_percent: _Optional[float] = ..., gpu_percent: _Optional[float] = ..., gpu_memory_percent: _Optional[float] = ...) -> None: ...

class Telemetry(_message.Message):
    __slots__ = ("steps", "next_batch", "lost_batches", "in_flight", "step_seconds", "waiting_seconds", "delays", "loss", "gradient_loss", "gradient_cosine", "samples_per_second", "cpu_seconds", "peak_rss_bytes", "done", "pulls", "gradient_norm_ratio", "input_loss", "fallback", "utilization", "waits", "refused_from_below", "refused_from_above", "push_steps", "lost_states", "time_loss", "time_cosine", "time_norm_ratio", "own_loss", "time_aux_loss", "sent_bytes", "received_bytes")
    class DelaysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    STEPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_BATCH_FIELD_NUMBER: _ClassVar[int]
    LOST_BATCHES_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAITING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DELAYS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_LOSS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_COSINE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_RATIO_FIELD_NUMBER: _ClassVar[int]
    INPUT_LOSS_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FROM_BELOW_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FROM_ABOVE_FIELD_NUMBER: _ClassVar[int]
    PUSH_STEPS_FIELD_NUMBER: _ClassVar[int]
    LOST_STATES_FIELD_NUMBER: _ClassVar[int]
    TIME_LOSS_FIELD_NUMBER: _ClassVar[int]
    TIME_COSINE_FIELD_NUMBER: _ClassVar[int]
    TIME_NORM_RATIO_FIELD_NUMBER: _ClassVar[int]
    OWN_LOSS_FIELD_NUMBER: _ClassVar[int]
    TIME_AUX_LOSS_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    steps: int
    next_batch: int
    lost_batches: int
    in_flight: int
    step_seconds: float
    waiting_seconds: float
    delays: _containers.ScalarMap[int, int]
    loss: float
    gradient_loss: float
    gradient_cosine: float
    samples_per_second: float
    cpu_seconds: float
    peak_rss_bytes: int
    done: bool
    pulls: int
    gradient_norm_ratio: float
    input_loss: float
    fallback: bool
    utilization: Utilization
    waits: bool
    refused_from_below: int
    refused_from_above: int
    push_steps: int
    lost_states: int
    time_loss: float
    time_cosine: float
    time_norm_ratio: float
    own_loss: float
    time_aux_loss: float
    sent_bytes: int
    received_bytes: int
    def __init__(self, steps: _Optional[int] = ..., next_batch: _Optional[int] = ..., lost_batches: _Optional[int] = ..., in_flight: _Optional[int] = ..., step_seconds: _Optional[float] = ..., waiting_seconds: _Optional[float] = ..., delays: _Optional[_Mapping[int, int]] = ..., loss: _Optional[float] = ..., gradient_loss: _Optional[float] = ..., gradient_cosine: _Optional[float] = ..., samples_per_second: _Optional[float] = ..., cpu_seconds: _Optional[float] = ..., peak_rss_bytes: _Optional[int] = ..., done: bool = ..., pulls: _Optional[int] = ..., gradient_norm_ratio: _Optional[float] = ..., input_loss: _Optional[float] = ..., fallback: bool = ..., utilization: _Optional[_Union[Utilization, _Mapping]] = ..., waits: bool = ..., refused_from_below: _Optional[int] = ..., refused_from_above: _Optional[int] = ..., push_steps: _Optional[int] = ..., lost_states: _Optional[int] = ..., time_loss: _Optional[float] = ..., time_cosine: _Optional[float] = ..., time_norm_ratio: _Optional[float] = ..., own_loss: _Optional[float] = ..., time_aux_loss: _Optional[float] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("incarnation", "beat", "telemetry", "peers_version", "scores", "promise")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    PEERS_VERSION_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    PROMISE_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    beat: int
    telemetry: Telemetry
    peers_version: int
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    promise: Promise
    def __init__(self, incarnation: _Optional[int] = ..., beat: _Optional[int] = ..., telemetry: _Optional[_Union[Telemetry, _Mapping]] = ..., peers_version: _Optional[int] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., promise: _Optional[_Union[Promise, _Mapping]] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("over", "peers_version", "peers", "begin", "stop", "curriculum", "hold", "end", "rejoin")
    OVER_FIELD_NUMBER: _ClassVar[int]
    PEERS_VERSION_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    CURRICULUM_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REJOIN_FIELD_NUMBER: _ClassVar[int]
    over: bool
    peers_version: int
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    begin: bool
    stop: bool
    curriculum: Curriculum
    hold: int
    end: int
    rejoin: bool
    def __init__(self, over: bool = ..., peers_version: _Optional[int] = ..., peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., begin: bool = ..., stop: bool = ..., curriculum: _Optional[_Union[Curriculum, _Mapping]] = ..., hold: _Optional[int] = ..., end: _Optional[int] = ..., rejoin: bool = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("incarnation", "reason", "telemetry")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    reason: str
    telemetry: Telemetry
    def __init__(self, incarnation: _Optional[int] = ..., reason: _Optional[str] = ..., telemetry: _Optional[_Union[Telemetry, _Mapping]] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Seat(_message.Message):
    __slots__ = ("layer", "replica", "state", "slave", "host", "pid", "device", "incarnation", "lease_age", "beat", "grants", "telemetry", "still_seconds", "begun")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SLAVE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LEASE_AGE_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    STILL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    layer: int
    replica: int
    state: str
    slave: str
    host: str
    pid: int
    device: str
    incarnation: int
    lease_age: float
    beat: int
    grants: int
    telemetry: Telemetry
    still_seconds: float
    begun: bool
    def __init__(self, layer: _Optional[int] = ..., replica: _Optional[int] = ..., state: _Optional[str] = ..., slave: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., device: _Optional[str] = ..., incarnation: _Optional[int] = ..., lease_age: _Optional[float] = ..., beat: _Optional[int] = ..., grants: _Optional[int] = ..., telemetry: _Optional[_Union[Telemetry, _Mapping]] = ..., still_seconds: _Optional[float] = ..., begun: bool = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("batches", "test_error_percent", "test_loss", "versions", "metrics")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    TEST_ERROR_PERCENT_FIELD_NUMBER: _ClassVar[int]
    TEST_LOSS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    batches: int
    test_error_percent: float
    test_loss: float
    versions: _containers.ScalarMap[str, int]
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, batches: _Optional[int] = ..., test_error_percent: _Optional[float] = ..., test_loss: _Optional[float] = ..., versions: _Optional[_Mapping[str, int]] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Counters(_message.Message):
    __slots__ = ("staleness", "pushes", "pulls", "duplicate_pushes", "fenced", "malformed", "bytes_received", "bytes_sent", "cpu_seconds", "peak_rss_bytes", "refused_pushes", "restarts")
    class StalenessEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_PUSHES_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    MALFORMED_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_PUSHES_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    staleness: _containers.ScalarMap[int, int]
    pushes: int
    pulls: int
    duplicate_pushes: int
    fenced: int
    malformed: int
    bytes_received: int
    bytes_sent: int
    cpu_seconds: float
    peak_rss_bytes: int
    refused_pushes: int
    restarts: int
    def __init__(self, staleness: _Optional[_Mapping[int, int]] = ..., pushes: _Optional[int] = ..., pulls: _Optional[int] = ..., duplicate_pushes: _Optional[int] = ..., fenced: _Optional[int] = ..., malformed: _Optional[int] = ..., bytes_received: _Optional[int] = ..., bytes_sent: _Optional[int] = ..., cpu_seconds: _Optional[float] = ..., peak_rss_bytes: _Optional[int] = ..., refused_pushes: _Optional[int] = ..., restarts: _Optional[int] = ...) -> None: ...

class LayerPushes(_message.Message):
    __slots__ = ("layer", "staleness", "refused")
    class StalenessEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    LAYER_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    layer: int
    staleness: _containers.ScalarMap[int, int]
    refused: int
    def __init__(self, layer: _Optional[int] = ..., staleness: _Optional[_Mapping[int, int]] = ..., refused: _Optional[int] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("name", "state", "batches", "of_batches", "waiting_slaves", "training_seconds", "starts", "seats", "versions", "delays", "waiting_fraction", "lost_batches", "counters", "evaluation", "layers", "utilization", "snapshot", "snapshot_trouble", "still_seconds", "successors", "lost_states", "curriculum", "stores", "stages", "stage", "resizing")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class DelaysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    class WaitingFractionEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    OF_BATCHES_FIELD_NUMBER: _ClassVar[int]
    WAITING_SLAVES_FIELD_NUMBER: _ClassVar[int]
    TRAINING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    SEATS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DELAYS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FRACTION_FIELD_NUMBER: _ClassVar[int]
    LOST_BATCHES_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TROUBLE_FIELD_NUMBER: _ClassVar[int]
    STILL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SUCCESSORS_FIELD_NUMBER: _ClassVar[int]
    LOST_STATES_FIELD_NUMBER: _ClassVar[int]
    CURRICULUM_FIELD_NUMBER: _ClassVar[int]
    STORES_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    RESIZING_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    batches: int
    of_batches: int
    waiting_slaves: int
    training_seconds: float
    starts: int
    seats: _containers.RepeatedCompositeFieldContainer[Seat]
    versions: _containers.ScalarMap[str, int]
    delays: _containers.ScalarMap[int, int]
    waiting_fraction: _containers.ScalarMap[int, float]
    lost_batches: int
    counters: Counters
    evaluation: Evaluation
    layers: _containers.RepeatedCompositeFieldContainer[LayerPushes]
    utilization: Utilization
    snapshot: Kept
    snapshot_trouble: str
    still_seconds: float
    successors: int
    lost_states: int
    curriculum: Curriculum
    stores: _containers.RepeatedCompositeFieldContainer[StoreState]
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    stage: int
    resizing: Resizing
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., batches: _Optional[int] = ..., of_batches: _Optional[int] = ..., waiting_slaves: _Optional[int] = ..., training_seconds: _Optional[float] = ..., starts: _Optional[int] = ..., seats: _Optional[_Iterable[_Union[Seat, _Mapping]]] = ..., versions: _Optional[_Mapping[str, int]] = ..., delays: _Optional[_Mapping[int, int]] = ..., waiting_fraction: _Optional[_Mapping[int, float]] = ..., lost_batches: _Optional[int] = ..., counters: _Optional[_Union[Counters, _Mapping]] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[LayerPushes, _Mapping]]] = ..., utilization: _Optional[_Union[Utilization, _Mapping]] = ..., snapshot: _Optional[_Union[Kept, _Mapping]] = ..., snapshot_trouble: _Optional[str] = ..., still_seconds: _Optional[float] = ..., successors: _Optional[int] = ..., lost_states: _Optional[int] = ..., curriculum: _Optional[_Union[Curriculum, _Mapping]] = ..., stores: _Optional[_Iterable[_Union[StoreState, _Mapping]]] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ..., stage: _Optional[int] = ..., resizing: _Optional[_Union[Resizing, _Mapping]] = ...) -> None: ...

class Kept(_message.Message):
    __slots__ = ("number", "time", "nbytes", "versions", "damage")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    number: int
    time: float
    nbytes: int
    versions: _containers.ScalarMap[str, int]
    damage: str
    def __init__(self, number: _Optional[int] = ..., time: _Optional[float] = ..., nbytes: _Optional[int] = ..., versions: _Optional[_Mapping[str, int]] = ..., damage: _Optional[str] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotReply(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: Kept
    def __init__(self, snapshot: _Optional[_Union[Kept, _Mapping]] = ...) -> None: ...

class SnapshotsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotsReply(_message.Message):
    __slots__ = ("snapshots",)
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[Kept]
    def __init__(self, snapshots: _Optional[_Iterable[_Union[Kept, _Mapping]]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class RollbackReply(_message.Message):
    __slots__ = ("snapshot", "before", "fenced")
    class BeforeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    snapshot: Kept
    before: _containers.ScalarMap[str, int]
    fenced: int
    def __init__(self, snapshot: _Optional[_Union[Kept, _Mapping]] = ..., before: _Optional[_Mapping[str, int]] = ..., fenced: _Optional[int] = ...) -> None: ...

class AttendRequest(_message.Message):
    __slots__ = ("store", "session", "run", "host", "pid", "address", "order", "shards", "counters", "layers", "utilization", "trouble", "snapshots", "result", "seats", "metrics")
    STORE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SEATS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    store: str
    session: str
    run: str
    host: str
    pid: int
    address: str
    order: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardState]
    counters: Counters
    layers: _containers.RepeatedCompositeFieldContainer[LayerPushes]
    utilization: Utilization
    trouble: str
    snapshots: _containers.RepeatedScalarFieldContainer[int]
    result: TaskResult
    seats: _containers.RepeatedCompositeFieldContainer[SeatPushes]
    metrics: str
    def __init__(self, store: _Optional[str] = ..., session: _Optional[str] = ..., run: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., address: _Optional[str] = ..., order: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardState, _Mapping]]] = ..., counters: _Optional[_Union[Counters, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[LayerPushes, _Mapping]]] = ..., utilization: _Optional[_Union[Utilization, _Mapping]] = ..., trouble: _Optional[str] = ..., snapshots: _Optional[_Iterable[int]] = ..., result: _Optional[_Union[TaskResult, _Mapping]] = ..., seats: _Optional[_Iterable[_Union[SeatPushes, _Mapping]]] = ..., metrics: _Optional[str] = ...) -> None: ...

class SeatPushes(_message.Message):
    __slots__ = ("layer", "replica", "pushes", "pulls", "duplicate_pushes", "refused_pushes", "staleness")
    class StalenessEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_PUSHES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_PUSHES_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    layer: int
    replica: int
    pushes: int
    pulls: int
    duplicate_pushes: int
    refused_pushes: int
    staleness: _containers.ScalarMap[int, int]
    def __init__(self, layer: _Optional[int] = ..., replica: _Optional[int] = ..., pushes: _Optional[int] = ..., pulls: _Optional[int] = ..., duplicate_pushes: _Optional[int] = ..., refused_pushes: _Optional[int] = ..., staleness: _Optional[_Mapping[int, int]] = ...) -> None: ...

class StoreTask(_message.Message):
    __slots__ = ("number", "kind", "snapshot", "kept")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    number: int
    kind: TaskKind
    snapshot: int
    kept: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, number: _Optional[int] = ..., kind: _Optional[_Union[TaskKind, str]] = ..., snapshot: _Optional[int] = ..., kept: _Optional[_Iterable[int]] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("number", "failure", "nbytes", "versions")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    number: int
    failure: str
    nbytes: int
    versions: _containers.ScalarMap[str, int]
    def __init__(self, number: _Optional[int] = ..., failure: _Optional[str] = ..., nbytes: _Optional[int] = ..., versions: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ShardState(_message.Message):
    __slots__ = ("name", "version", "progress", "nbytes")
    class ProgressEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    progress: _containers.ScalarMap[int, int]
    nbytes: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., progress: _Optional[_Mapping[int, int]] = ..., nbytes: _Optional[int] = ...) -> None: ...

class AttendReply(_message.Message):
    __slots__ = ("run", "number", "order", "reader")
    RUN_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    READER_FIELD_NUMBER: _ClassVar[int]
    run: str
    number: int
    order: StoreOrder
    reader: str
    def __init__(self, run: _Optional[str] = ..., number: _Optional[int] = ..., order: _Optional[_Union[StoreOrder, _Mapping]] = ..., reader: _Optional[str] = ...) -> None: ...

class StoreOrder(_message.Message):
    __slots__ = ("number", "incarnations", "leases", "task", "stage")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    number: int
    incarnations: int
    leases: _containers.RepeatedCompositeFieldContainer[ListedLease]
    task: StoreTask
    stage: Stage
    def __init__(self, number: _Optional[int] = ..., incarnations: _Optional[int] = ..., leases: _Optional[_Iterable[_Union[ListedLease, _Mapping]]] = ..., task: _Optional[_Union[StoreTask, _Mapping]] = ..., stage: _Optional[_Union[Stage, _Mapping]] = ...) -> None: ...

class ListedLease(_message.Message):
    __slots__ = ("incarnation", "layer", "replica", "proof", "certificate")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    layer: int
    replica: int
    proof: str
    certificate: str
    def __init__(self, incarnation: _Optional[int] = ..., layer: _Optional[int] = ..., replica: _Optional[int] = ..., proof: _Optional[str] = ..., certificate: _Optional[str] = ...) -> None: ...

class LocateRequest(_message.Message):
    __slots__ = ("shard",)
    SHARD_FIELD_NUMBER: _ClassVar[int]
    shard: str
    def __init__(self, shard: _Optional[str] = ...) -> None: ...

class LocateReply(_message.Message):
    __slots__ = ("store", "address")
    STORE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    store: int
    address: str
    def __init__(self, store: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class PlaceRequest(_message.Message):
    __slots__ = ("incarnation", "shard", "nbytes")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    shard: str
    nbytes: int
    def __init__(self, incarnation: _Optional[int] = ..., shard: _Optional[str] = ..., nbytes: _Optional[int] = ...) -> None: ...

class StoreState(_message.Message):
    __slots__ = ("number", "state", "host", "pid", "address", "report_age", "shards", "nbytes", "counters", "utilization", "trouble")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REPORT_AGE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    number: int
    state: str
    host: str
    pid: int
    address: str
    report_age: float
    shards: _containers.RepeatedScalarFieldContainer[str]
    nbytes: int
    counters: Counters
    utilization: Utilization
    trouble: str
    def __init__(self, number: _Optional[int] = ..., state: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., address: _Optional[str] = ..., report_age: _Optional[float] = ..., shards: _Optional[_Iterable[str]] = ..., nbytes: _Optional[int] = ..., counters: _Optional[_Union[Counters, _Mapping]] = ..., utilization: _Optional[_Union[Utilization, _Mapping]] = ..., trouble: _Optional[str] = ...) -> None: ...
