"""Messages of the data plane as Arrow batches, for `benchmarks.flight`.

A message is a batch of a uint8 column, with a message of `protos/` in the metadata. A small message travels
in the metadata alone, payload included: for few bytes a batch costs more than a copy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from common.errors import MalformedError
from common.shards.pushes import Buffer, Frame, Header, Operation
from common.shards.table import BOUNDARY_ITEMSIZES, Table, check_table
from common.wire.messages import BoundaryMessage
from common.wire.payloads import decode_boundary, decode_frame, encode_boundary, encode_frame

SCHEMA = pa.schema([("data", pa.uint8())])
PIECE_BYTES = 2 << 20
SMALL_BYTES = 32 << 10


def batch_of(data: Buffer) -> Any:
    """Wrap bytes as a batch of one column, without a copy."""
    view = memoryview(data)
    column = pa.Array.from_buffers(pa.uint8(), view.nbytes, [None, pa.py_buffer(view)])
    return pa.RecordBatch.from_arrays([column], schema=SCHEMA)


def bytes_of(batch: Any) -> memoryview:
    """View a received batch's bytes without a copy.

    Raises:
        MalformedError: the batch has another form.
    """
    if batch.schema != SCHEMA or batch.column(0).null_count:
        raise MalformedError("a message is a batch of one uint8 column without nulls")
    column = batch.column(0)
    return memoryview(column.buffers()[1]).cast("B")[column.offset : column.offset + len(column)]


def metadata_of(chunk: Any) -> memoryview:
    """View a received message's metadata.

    Raises:
        MalformedError: the message has no metadata.
    """
    if chunk.app_metadata is None:
        raise MalformedError("a message has metadata")
    return memoryview(chunk.app_metadata).cast("B")


def frame_of(chunk: Any) -> Frame:
    """Decode a piece of a shard.

    Raises:
        MalformedError: the message is no piece of a shard.
    """
    frame = decode_frame(metadata_of(chunk))
    return frame if chunk.data is None else replace(frame, data=bytes_of(chunk.data))


def write_boundary(writer: Any, message: BoundaryMessage) -> None:
    """Send a boundary message; large tensors leave from their memory, behind a frame with their table."""
    if len(message.data) <= SMALL_BYTES:
        writer.write_metadata(encode_boundary(message))
        return
    bare = encode_boundary(replace(message, table=Table((), 0), data=b""))
    envelope = Frame(Header("", Operation.VALUE, table=message.table), 0, bare)
    writer.write_with_metadata(batch_of(message.data), encode_frame(envelope))


def boundary_of(chunk: Any) -> BoundaryMessage:
    """Decode a boundary message; tensors are views of the received memory.

    Raises:
        MalformedError: the message is no boundary message, or the bytes do not fit the table.
    """
    if chunk.data is None:
        return decode_boundary(metadata_of(chunk))
    envelope, data = decode_frame(metadata_of(chunk)), bytes_of(chunk.data)
    if envelope.header is None or envelope.header.table.nbytes != data.nbytes:
        raise MalformedError(f"{data.nbytes} bytes of tensors came without a table of {data.nbytes} bytes")
    check_table(envelope.header.table, BOUNDARY_ITEMSIZES)
    return replace(decode_boundary(envelope.data), table=envelope.header.table, data=data)
