"""The two messages that carry a payload: frames of a shard, and boundary messages."""

from __future__ import annotations

from collections.abc import Iterator

from common.errors import MalformedError
from common.messages import BoundaryMessage, Buffer, Frame, Header
from common.table import ITEMSIZES, Table, lay_out
from common.wire import codec
from common.wire.encoding import join_payload, split_payload, varint
from protos import layerwise_pb2 as pb

_FRAME_DATA = pb.Frame.DESCRIPTOR.fields_by_name["data"].number
_FRAME_OFFSET = pb.Frame.DESCRIPTOR.fields_by_name["offset"].number
_BOUNDARY_DATA = pb.BoundaryMessage.DESCRIPTOR.fields_by_name["data"].number

CHUNK_BYTES = 1 << 20


def encode_frame(frame: Frame) -> bytes:
    """A frame as bytes; its data is copied once."""
    if frame.header is None:
        small = varint(_FRAME_OFFSET << 3) + varint(frame.offset) if frame.offset else b""
    else:
        small = codec.to_proto(frame, without="data").SerializeToString()
    return join_payload(small, _FRAME_DATA, frame.data)


def decode_frame(encoded: bytes) -> Frame:
    """A frame whose data is a view of the bytes received.

    Raises:
        MalformedError: it is none.
    """
    small, data = split_payload(encoded, _FRAME_DATA)
    return codec.from_proto(Frame, codec.parse(pb.Frame, small), without="data", data=data)


def frames(header: Header, buffer: Buffer) -> Iterator[Frame]:
    """A buffer as frames: the header with the first chunk, then the others."""
    view = memoryview(buffer).cast("B")
    yield Frame(header, 0, view[:CHUNK_BYTES])
    for offset in range(CHUNK_BYTES, view.nbytes, CHUNK_BYTES):
        yield Frame(None, offset, view[offset : offset + CHUNK_BYTES])


def encode_boundary(message: BoundaryMessage) -> bytes:
    """A boundary message as bytes; its tensors are copied once."""
    small = codec.to_proto(message, without="data").SerializeToString()
    return join_payload(small, _BOUNDARY_DATA, message.data)


def decode_boundary(encoded: bytes) -> BoundaryMessage:
    """A boundary message whose data is a view of the bytes received.

    Raises:
        MalformedError: it is none, or its data is not what its table says.
    """
    small, data = split_payload(encoded, _BOUNDARY_DATA)
    parsed = codec.parse(pb.BoundaryMessage, small)
    message = codec.from_proto(BoundaryMessage, parsed, without="data", data=data)
    check_table(message.table)
    if message.table.nbytes != data.nbytes:
        raise MalformedError(
            f"{data.nbytes} bytes of tensors came where their table says {message.table.nbytes}"
        )
    return message


def check_table(table: Table) -> None:
    """Whether a table from a peer lays its tensors out as every table here does.

    Raises:
        MalformedError: an unknown dtype or kind, a name that comes twice, an overlap, a gap that is no
            alignment, or a size that lies.
    """
    for spec in table.tensors:
        if spec.dtype not in ITEMSIZES or spec.kind not in ("parameter", "buffer"):
            raise MalformedError(f"tensor {spec.name} has dtype {spec.dtype!r} and kind {spec.kind!r}")
        if spec.kind == "parameter" and spec.dtype != "float32":
            raise MalformedError(f"parameter {spec.name} is {spec.dtype}; parameters are float32")
    if len({spec.name for spec in table.tensors}) < len(table.tensors):
        raise MalformedError("a table names a tensor twice")
    if lay_out((spec.name, spec.dtype, spec.shape, spec.kind) for spec in table.tensors) != table:
        raise MalformedError("a table's tensors do not lie side by side within its bytes")
