"""Codecs of messages with a payload: frames of a shard, boundary messages, messages of served synthesis."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Generic, TypeVar

from google.protobuf.message import Message

from common.bounds import MOST_SIGNAL_TENSORS
from common.errors import MalformedError, TooLargeError
from common.shards.pushes import Buffer, Frame, Header
from common.shards.table import BOUNDARY_ITEMSIZES, ITEMSIZES, Table, check_dimensions, check_table
from common.wire import codec
from common.wire.encoding import field_head, read_varint, split_fields
from common.wire.messages import BoundaryMessage, SynthesisMessage
from protos import layerwise_pb2 as pb

# Measured (docs/performance.md): with half the size calls cost more; with twice, copies leave the cache.
CHUNK_BYTES = 1 << 20

Tensors = TypeVar("Tensors", bound=BoundaryMessage | SynthesisMessage)


def _numbers(kind: type[Message]) -> dict[str, int]:
    return {field.name: field.number for field in kind.DESCRIPTOR.fields}


def _between(numbers: dict[str, int], low: int, high: int) -> tuple[str, ...]:
    """Return the names of the fields numbered between two: protobuf writes fields in order of number."""
    return tuple(name for name, number in sorted(numbers.items(), key=lambda n: n[1]) if low < number < high)


_FRAME, _HEADER = (_numbers(kind) for kind in (pb.Frame, pb.Header))
_BEFORE_TABLE = _between(_HEADER, 0, _HEADER["table"])
_AFTER_TABLE = _between(_HEADER, _HEADER["table"], 1 << 29)
_OFFSET_TAG, _DATA_TAG = bytes((_FRAME["offset"] << 3,)), field_head(_FRAME["data"], 0)[:1]
# Two tags of a byte, and two numbers of ten at most.
PIECE_HEAD_BYTES = 22


def frame_parts(frame: Frame) -> tuple[Buffer, ...]:
    """Encode a frame in parts, of which the data stay in place."""
    offset, payload = codec.encode_plain(frame, ("offset",)), _payload(_FRAME["data"], frame.data)
    if frame.header is None:
        return offset, *payload
    header = _encoded_header(frame.header)
    return field_head(_FRAME["header"], len(header)), header, offset, *payload


def encode_frame(frame: Frame) -> bytes:
    """Encode a frame; the data are copied once."""
    return b"".join(frame_parts(frame))


def piece_head(beginning: bytes, nbytes: int) -> tuple[int, int] | None:
    """Decode the head of a frame without a header, so that the piece can be received in place.

    Args:
        beginning: the frame's first bytes: the whole frame, or at least `PIECE_HEAD_BYTES`.
        nbytes: of the whole frame.

    Returns:
        The piece's offset in the shard's buffer and its position in the frame; None for a frame of another
        form, which `decode_frame` may decode.
    """
    position, offset = 0, 0
    try:
        if beginning[:1] == _OFFSET_TAG:
            offset, position = read_varint(memoryview(beginning), 1)
        if beginning[position : position + 1] != _DATA_TAG:
            return None
        length, position = read_varint(memoryview(beginning), position + 1)
    except MalformedError:
        return None
    return (offset, position) if position + length == nbytes else None


def _encoded_header(header: Header) -> bytes:
    before, after = (codec.encode_plain(header, names) for names in (_BEFORE_TABLE, _AFTER_TABLE))
    return before + _table_field(_HEADER["table"], header.table) + after


@lru_cache(maxsize=256)
def _table_field(field: int, table: Table) -> bytes:
    encoded = codec.encode_table(table)
    return field_head(field, len(encoded)) + encoded


def _payload(field: int, data: Buffer) -> tuple[Buffer, ...]:
    view = memoryview(data)
    return (field_head(field, view.nbytes), view.cast("B")) if view.nbytes else ()


def decode_frame(encoded: Buffer) -> Frame:
    """Decode a frame; the data are a view of the encoding.

    Raises:
        MalformedError: the bytes are no frame.
        TooLargeError: a part is larger than its bound.
    """
    small, found = split_fields(encoded, (_FRAME["data"], _FRAME["header"]))
    offset = codec.parse(pb.Frame, small).offset if small else 0
    header = _decoded_header(_whole(found, _FRAME["header"])) if _FRAME["header"] in found else None
    return Frame(header, offset, _last(found, _FRAME["data"], encoded))


def _decoded_header(encoded: bytes) -> Header:
    return codec.from_proto(Header, codec.parse(pb.Header, encoded))


def _whole(found: dict[int, list[memoryview]], field: int) -> bytes:
    # Protobuf merges a message field that comes twice: the merger is the two encodings side by side.
    return b"".join(found.get(field, ()))


def _last(found: dict[int, list[memoryview]], field: int, encoded: Buffer) -> memoryview:
    return found[field][-1] if field in found else memoryview(encoded)[:0]


def frames(header: Header, buffer: Buffer) -> Iterator[Frame]:
    """Cut a buffer into frames: the header with the first chunk, then the other chunks."""
    view = memoryview(buffer).cast("B")
    yield Frame(header, 0, view[:CHUNK_BYTES])
    for offset in range(CHUNK_BYTES, view.nbytes, CHUNK_BYTES):
        yield Frame(None, offset, view[offset : offset + CHUNK_BYTES])


class TensorCodec(Generic[Tensors]):
    """Codec of a message that ends in a table and tensors.

    Args:
        kind: class of the message.
        generated: generated class of the message.
        dtypes: allowed dtypes of the tensors.
    """

    def __init__(self, kind: type[Tensors], generated: type[Message], dtypes: Collection[str]) -> None:
        numbers = _numbers(generated)
        self._kind = kind
        self._generated = generated
        self._dtypes = frozenset(dtypes)
        self._table, self._data = numbers["table"], numbers["data"]
        self._before = _between(numbers, 0, self._table)
        self._after = _between(numbers, self._data, 1 << 29)

    def encode(self, message: Tensors) -> bytes:
        """Encode a message; the tensors are copied once."""
        return b"".join(self.parts(message))

    def parts(self, message: Tensors) -> tuple[Buffer, ...]:
        """Encode a message in parts, of which the tensors stay in place."""
        before = codec.encode_plain(message, self._before) + _table_field(self._table, message.table)
        return before, *_payload(self._data, message.data), codec.encode_plain(message, self._after)

    def decode(self, encoded: Buffer) -> Tensors:
        """Decode a message; the data are a view of the encoding.

        Raises:
            MalformedError: the bytes are no message of the class, or the data do not fit the table.
            TooLargeError: a part is larger than its bound.
        """
        small, found = split_fields(encoded, (self._data, self._table))
        data = _last(found, self._data, encoded)
        table = _checked(_whole(found, self._table), self._dtypes)
        if table.nbytes != data.nbytes:
            raise MalformedError(f"{data.nbytes} bytes of tensors came where their table says {table.nbytes}")
        parsed = codec.parse(self._generated, small)
        check_dimensions(self._kind.__name__, getattr(parsed, "shape", ()))
        return codec.from_proto(self._kind, parsed, table=table, data=data)


def _checked(encoded: bytes, dtypes: frozenset[str]) -> Table:
    read = _remembered if len(encoded) <= codec.MOST_REMEMBERED_BYTES else _table_of
    return read(encoded, dtypes)


def _table_of(encoded: bytes, dtypes: frozenset[str]) -> Table:
    table = codec.decode_table(encoded)
    if len(table.tensors) > MOST_SIGNAL_TENSORS:
        raise TooLargeError(f"a message has {len(table.tensors)} tensors; at most {MOST_SIGNAL_TENSORS}")
    check_table(table, dtypes)
    return table


_remembered = lru_cache(maxsize=128)(_table_of)


_BOUNDARY = TensorCodec(BoundaryMessage, pb.BoundaryMessage, BOUNDARY_ITEMSIZES)
encode_boundary, boundary_parts, decode_boundary = _BOUNDARY.encode, _BOUNDARY.parts, _BOUNDARY.decode
_SYNTHESIS = TensorCodec(SynthesisMessage, pb.SynthesisMessage, ITEMSIZES)
encode_synthesis, decode_synthesis = _SYNTHESIS.encode, _SYNTHESIS.decode
