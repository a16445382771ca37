"""RPCs with path, kind and codecs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from common.bounds import message_bytes
from common.shards import pushes
from common.wire import codec, payloads, stages, stores
from common.wire import messages as m
from protos import layerwise_pb2 as pb

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Codec(Generic[Value]):
    """Codec of one class of messages."""

    encode: Callable[[Value], bytes]
    decode: Callable[[bytes], Value]


@dataclass(frozen=True)
class Method(Generic[Request, Reply]):
    """RPC of a service."""

    service: str
    name: str
    request: Codec[Request]
    reply: Codec[Reply]
    streams_requests: bool
    streams_replies: bool

    @property
    def request_bytes(self) -> int:
        """Bound of a request, in bytes."""
        return message_bytes(self.service, self.name)[0]

    @property
    def reply_bytes(self) -> int:
        """Bound of a reply, in bytes."""
        return message_bytes(self.service, self.name)[1]

    @property
    def path(self) -> str:
        """HTTP/2 path of the call."""
        return f"/{pb.DESCRIPTOR.package}.{self.service}/{self.name}"


def _plain(kind: type[Value]) -> Codec[Value]:
    return Codec(codec.encode, codec.decoder(kind))


_SYNTHESIS: Codec[m.SynthesisMessage] = Codec(payloads.encode_synthesis, payloads.decode_synthesis)
_FRAME: Codec[pushes.Frame] = Codec(payloads.encode_frame, payloads.decode_frame)
# Bytes on both sides: a relay passes messages on without a codec.
_RAW: Codec[bytes] = Codec(lambda encoded: encoded, lambda encoded: encoded)
# Answers in parts.
_PARTS: Codec[Any] = Codec(b"".join, lambda encoded: encoded)


def _method(service: str, name: str, request: Codec[Request], reply: Codec[Reply]) -> Method[Request, Reply]:
    described = pb.DESCRIPTOR.services_by_name[service].methods_by_name[name]
    return Method(service, name, request, reply, described.client_streaming, described.server_streaming)


DESCRIBE = _method("Roster", "Describe", _plain(m.DescribeRequest), _plain(m.DescribeReply))
JOIN = _method("Roster", "Join", _plain(m.JoinRequest), _plain(m.JoinReply))
HEARTBEAT = _method("Roster", "Heartbeat", _plain(m.HeartbeatRequest), _plain(m.HeartbeatReply))
LEAVE = _method("Roster", "Leave", _plain(m.LeaveRequest), _plain(m.LeaveReply))
STATUS = _method("Roster", "Status", _plain(m.StatusRequest), _plain(m.StatusReply))
REPORT = _method("Roster", "Report", _plain(m.Evaluation), _plain(m.ReportReply))
REACH = _method("Roster", "Reach", _plain(m.ReachRequest), _plain(m.ReachReply))
AGREE = _method("Roster", "Agree", _plain(m.AgreeRequest), _plain(m.AgreeReply))
RESIZE = _method("Roster", "Resize", _plain(stages.ResizeRequest), _plain(stages.ResizeReply))
SNAPSHOT = _method("Keeper", "Snapshot", _plain(m.SnapshotRequest), _plain(m.SnapshotReply))
SNAPSHOTS = _method("Keeper", "Snapshots", _plain(m.SnapshotsRequest), _plain(m.SnapshotsReply))
ROLLBACK = _method("Keeper", "Rollback", _plain(m.RollbackRequest), _plain(m.RollbackReply))
PUSH = _method("Parameters", "Push", _FRAME, _plain(pushes.PushReply))
PULL = _method("Parameters", "Pull", _plain(pushes.PullRequest), _FRAME)
EXCHANGE = _method("Boundary", "Exchange", _RAW, _PARTS)
SYNTHESIZE = _method("Synthesis", "Synthesize", _SYNTHESIS, _SYNTHESIS)
ATTEND = _method("Stores", "Attend", _plain(stores.AttendRequest), _plain(stores.AttendReply))
LOCATE = _method("Stores", "Locate", _plain(stores.LocateRequest), _plain(stores.LocateReply))
PLACE = _method("Stores", "Place", _plain(stores.PlaceRequest), _plain(stores.LocateReply))

METHODS: tuple[Method[Any, Any], ...] = (
    DESCRIBE,
    JOIN,
    HEARTBEAT,
    LEAVE,
    STATUS,
    REPORT,
    REACH,
    AGREE,
    RESIZE,
    SNAPSHOT,
    SNAPSHOTS,
    ROLLBACK,
    PUSH,
    PULL,
    EXCHANGE,
    SYNTHESIZE,
    ATTEND,
    LOCATE,
    PLACE,
)


def _check_complete() -> None:
    described = {
        (service.name, method.name)
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    declared = {(method.service, method.name) for method in METHODS}
    if described != declared:
        raise AssertionError(f"protos/ and METHODS differ: {described ^ declared}")


_check_complete()
