"""Client of Apache Arrow Flight for `benchmarks.flight` (see `benchmarks.flight_clients`).

An address is two: the master's control port, and the Flight server's port, with a comma in between.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pyarrow import flight

from benchmarks.flight_batches import (
    PIECE_BYTES,
    SCHEMA,
    SMALL_BYTES,
    batch_of,
    boundary_of,
    frame_of,
    write_boundary,
)
from benchmarks.flight_clients import Client, check_gradient, gradient_of, hello, join, run_role
from common.errors import UnreachableError
from common.shards.assembly import Assembly
from common.shards.pushes import Buffer, Frame, Header, PullRequest, PushReply
from common.wire.messages import BoundaryMessage, JoinReply
from common.wire.methods import PULL, PUSH
from common.wire.payloads import encode_boundary, encode_frame

# Each client has a connection of its own; HTTP/2 frames of more than 16 KiB save work where they are allowed.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.max_frame_size", (1 << 24) - 1)]


def connect(address: str) -> Any:
    """Connect to a Flight server over a new connection."""
    return flight.FlightClient(f"grpc://{address}", generic_options=OPTIONS)


class ArrowClient(Client):
    """Slave of layer 1 at a Flight server."""

    def __init__(self, address: str) -> None:
        control, self._data = address.split(",")
        super().__init__(join(control))
        self._pushes, self._pulls = connect(self._data), connect(self._data)
        self._open_pushes = self._begin_pushes()
        self._open_pulls = self._pulls.do_exchange(flight.FlightDescriptor.for_command(b"pull"))
        self._open_pulls[0].begin(SCHEMA)

    def _begin_pushes(self) -> tuple[Any, Any]:
        call: tuple[Any, Any] = self._pushes.do_put(flight.FlightDescriptor.for_command(b"push"), SCHEMA)
        return call

    def push(self, header: Header, data: memoryview) -> PushReply:
        """Push in an open call."""
        return _push(*self._open_pushes, header, data)

    def push_alone(self, header: Header, data: memoryview) -> PushReply:
        """Push in a new call over an open connection."""
        writer, answers = self._begin_pushes()
        reply = _push(writer, answers, header, data)
        writer.close()
        return reply

    def pull(self, request: PullRequest) -> tuple[Header, Buffer]:
        """Pull, copying every piece once."""
        reader = self._pulls.do_get(flight.Ticket(PULL.request.encode(request)))
        assembly = Assembly(frame_of(reader.read_chunk()), None)
        buffer = np.empty(assembly.header.table.nbytes, np.uint8)
        for offset, piece in assembly.pieces:
            buffer[offset : offset + piece.nbytes] = np.frombuffer(piece, np.uint8)
        assembly.pieces.clear()
        # Pieces count only with the status behind the last.
        for chunk in reader:
            frame = frame_of(chunk)
            assembly.expect(frame.offset, len(frame.data))
            buffer[frame.offset : frame.offset + len(frame.data)] = np.frombuffer(frame.data, np.uint8)
        if not assembly.complete:
            raise UnreachableError("the pull ended before the shard was whole")
        return assembly.header, buffer.data

    def pull_open(self, request: PullRequest) -> tuple[Header, Buffer]:
        """Pull a small version in an open exchange."""
        writer, reader = self._open_pulls
        writer.write_metadata(PULL.request.encode(request))
        frame = frame_of(reader.read_chunk())
        return Assembly(frame, None).header, frame.data

    def bounce(self, activations: list[BoundaryMessage]) -> list[float]:
        """Send and receive on the calling thread."""
        seconds = []
        with _exchange(self._data, self.lease) as (writer, reader):
            for activation in activations:
                start = time.perf_counter()
                write_boundary(writer, activation)
                gradient = boundary_of(reader.read_chunk())
                seconds.append(time.perf_counter() - start)
                check_gradient(gradient, activation)
        return seconds


def _push(writer: Any, answers: Any, header: Header, data: memoryview) -> PushReply:
    if data.nbytes <= SMALL_BYTES:
        writer.write_metadata(encode_frame(Frame(header, 0, data)))
    else:
        for offset in range(0, data.nbytes, PIECE_BYTES):
            frame = Frame(None if offset else header, offset)
            writer.write_with_metadata(batch_of(data[offset : offset + PIECE_BYTES]), encode_frame(frame))
    return PUSH.reply.decode(answers.read().to_pybytes())


@contextmanager
def _exchange(address: str, lease: JoinReply) -> Iterator[tuple[Any, Any]]:
    """Open a slave's boundary stream; the server returns the hello."""
    client = connect(address)
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"boundary"))
    writer.begin(SCHEMA)
    writer.write_metadata(encode_boundary(hello(lease)))
    reader.read_chunk()
    yield writer, reader
    writer.close()
    client.close()


def echo(address: str) -> None:
    """Return every activation as a gradient."""
    control, data = address.split(",")
    with _exchange(data, join(control)) as (writer, reader):
        print("ready", flush=True)
        while True:
            write_boundary(writer, gradient_of(boundary_of(reader.read_chunk())))


if __name__ == "__main__":
    run_role(ArrowClient, echo)
