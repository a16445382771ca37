"""common.bounds: too much is refused before anything is computed; the page has the same bounds."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import grpc
import hpack
import pytest

from common import bounds
from common.errors import LayerwiseError, TooLargeError
from common.net import control
from common.net.control import MOST_STREAMS, ControlServer
from common.net.data.messages import Messages
from common.net.http2 import frames
from common.net.http2.connection import Connection
from common.net.http2.frames import Kind, frame
from common.shards.table import lay_out
from common.wire import messages as m
from common.wire.codec import decode_table, decoder
from common.wire.methods import DESCRIBE, JOIN, METHODS, STATUS
from common.wire.payloads import decode_boundary, decode_frame, decode_synthesis
from protos import layerwise_pb2 as pb

DEADLINE = 20.0
PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def spec(*shape: int, name: str = "w", dtype: str = "float32") -> Any:
    return pb.TensorSpec(name=name, dtype=dtype, shape=shape, kind="parameter")


TABLES = {
    "dimensions": [spec(*[1] * (bounds.MOST_DIMENSIONS + 1))],
    "a million dimensions": [spec(*[2] * 1_000_000)],
    "the size of a dimension": [spec(2**63)],
    "a product that overflows": [spec(2**32, 2**32)],
    "a product of many": [spec(*[2] * bounds.MOST_DIMENSIONS, name="v"), spec(*[2**30] * 32)],
    "tensors": [spec(name=str(i)) for i in range(bounds.MOST_TENSORS + 1)],
    "a name": [spec(name="n" * (bounds.MOST_TEXT + 1))],
    "a dtype": [spec(dtype="d" * (bounds.MOST_TEXT + 1))],
}


@pytest.mark.parametrize("which", TABLES)
def test_a_table_beyond_its_bounds_is_refused_wherever_it_comes(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laying the tensors out, and so every product, comes after the check."""
    monkeypatch.setattr("common.shards.table.lay_out", lambda _: pytest.fail("computed before the check"))
    table = pb.Table(tensors=TABLES[which], nbytes=4)
    encoded = table.SerializeToString()
    frame = pb.Frame(
        header=pb.Header(shard="1/weights", operation=pb.CREATE, table=table)
    ).SerializeToString()
    boundary = pb.BoundaryMessage(kind=pb.ACTIVATION, table=table, data=b"1234").SerializeToString()
    synthesis = pb.SynthesisMessage(kind=pb.ASK, table=table, data=b"1234").SerializeToString()
    for decode, what in (
        (decode_table, encoded),
        (decode_frame, frame),
        (decode_boundary, boundary),
        (decode_synthesis, synthesis),
    ):
        with pytest.raises(LayerwiseError) as caught:
            decode(what)
        assert isinstance(caught.value, TooLargeError)
        assert len(str(caught.value)) < 2 * bounds.MOST_TEXT


def test_a_message_between_layers_has_few_tensors() -> None:
    table = lay_out((str(i), "float32", (), "buffer") for i in range(bounds.MOST_SIGNAL_TENSORS + 1))
    tensors = [pb.TensorSpec(name=t.name, dtype=t.dtype, offset=t.offset, kind=t.kind) for t in table.tensors]
    message = pb.BoundaryMessage(
        kind=pb.ACTIVATION, table=pb.Table(tensors=tensors, nbytes=table.nbytes), data=bytes(table.nbytes)
    )
    with pytest.raises(TooLargeError, match="513 tensors; at most 512"):
        decode_boundary(message.SerializeToString())


def test_a_shape_of_served_synthesis_has_few_dimensions() -> None:
    message = pb.SynthesisMessage(kind=pb.ASK, shape=[1] * 1000)
    with pytest.raises(TooLargeError, match="1000 dimensions"):
        decode_synthesis(message.SerializeToString())


LONG = "x" * (bounds.MOST_TEXT + 1)
MANY = bounds.MOST_ENTRIES + 1
LARGE = {
    "a slave's name": (m.JoinRequest, pb.JoinRequest(slave="s" * (20 << 20))),
    "an address": (m.JoinRequest, pb.JoinRequest(address=LONG)),
    "a reason": (m.LeaveRequest, pb.LeaveRequest(reason=LONG)),
    "a text within a message": (m.StatusReply, pb.StatusReply(seats=[pb.Seat(slave=LONG)])),
    "a map": (m.Evaluation, pb.Evaluation(versions={str(i): i for i in range(MANY)})),
    "a map within a message": (
        m.HeartbeatRequest,
        pb.HeartbeatRequest(telemetry=pb.Telemetry(delays=dict.fromkeys(range(MANY), 1))),
    ),
    "a key of a map": (m.Evaluation, pb.Evaluation(versions={LONG: 1})),
    "a list": (m.HeartbeatReply, pb.HeartbeatReply(peers=[pb.Peer()] * MANY)),
}  # fmt: skip


@pytest.mark.parametrize("which", LARGE)
def test_long_texts_lists_and_maps_are_refused(which: str) -> None:
    kind, message = LARGE[which]
    with pytest.raises(TooLargeError, match="at most"):
        decoder(kind)(message.SerializeToString())


def test_a_configuration_may_be_long() -> None:
    encoded = pb.DescribeReply(config=LONG * 100).SerializeToString()
    assert decoder(m.DescribeReply)(encoded).config == LONG * 100


# --- memory


def test_memory_grows_as_the_bytes_of_a_message_come() -> None:
    """A message that claims 4 MiB and stops holds what has come."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, serves=True)
    hello = frames.PREFACE + frames.settings({})
    opened = frame(Kind.HEADERS, frames.END_HEADERS, 1, hpack.Encoder().encode([(":path", "/")]))
    claim = b"\0" + bounds.LARGEST_PIECE_MESSAGE_BYTES.to_bytes(4, "big") + bytes(1000)
    theirs.sendall(hello + opened + frame(Kind.DATA, 0, 1, claim))
    theirs.shutdown(socket.SHUT_WR)
    connection.open()
    assert connection.accept() is not None
    tracemalloc.start()
    with pytest.raises(LayerwiseError):
        Messages(connection).read()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 256 << 10
    connection.pipe.close()
    theirs.close()


def test_a_long_message_is_whole() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, serves=True)
    what = bytes(range(256)) * 1000
    hello = frames.PREFACE + frames.settings({})
    opened = frame(Kind.HEADERS, frames.END_HEADERS, 1, hpack.Encoder().encode([(":path", "/")]))
    body = frame(Kind.DATA, 0, 1, b"\0" + len(what).to_bytes(4, "big") + what)
    sending = threading.Thread(target=theirs.sendall, args=(hello + opened + body,))
    sending.start()
    connection.open()
    assert connection.accept() is not None
    assert bytes(Messages(connection).read() or b"") == what
    sending.join()
    connection.pipe.close()
    theirs.close()


# --- the control port


async def _answered(port: str, method: Any, request: bytes) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(port) as channel:
        try:
            await channel.unary_unary(method.path)(request, timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_the_control_port_refuses_a_message_above_its_methods_bound() -> None:
    joined: list[str] = []

    async def join(request: m.JoinRequest) -> m.JoinReply:
        joined.append(request.slave)
        return m.JoinReply()

    async def work() -> list[grpc.StatusCode]:
        server = ControlServer()
        server.add(JOIN, join)
        port = await server.start("127.0.0.1:0")
        sizes = (10, bounds.MOST_TEXT + 1, bounds.SMALL_MESSAGE_BYTES + 1, 20 << 20)
        requests = [pb.JoinRequest(slave="s" * size).SerializeToString() for size in sizes]
        codes = [await _answered(port, JOIN, request) for request in requests]
        await server.stop(0)
        return codes

    codes = asyncio.run(work())
    assert codes == [grpc.StatusCode.OK, *[grpc.StatusCode.RESOURCE_EXHAUSTED] * 3]
    assert joined == ["s" * 10]


def _open_streams(address: str, count: int) -> socket.socket:
    """Open streams on one connection, and answer none of what the server says."""
    host, port = address.split(":")
    peer = socket.create_connection((host, int(port)), DEADLINE)
    encoder = hpack.Encoder()
    ask = [(":method", "POST"), (":scheme", "http"), (":path", STATUS.path), (":authority", "x")]
    ask += [("te", "trailers"), ("content-type", "application/grpc")]
    peer.sendall(frames.PREFACE + frames.settings({}) + frame(Kind.SETTINGS, frames.ACK))
    try:
        for stream in range(1, 2 * count, 2):
            peer.sendall(frame(Kind.HEADERS, frames.END_HEADERS, stream, encoder.encode(ask)))
    except OSError:
        pass  # sent away
    return peer


def test_ten_thousand_streams_on_one_connection_of_the_control_port_are_not_taken() -> None:
    under_way: set[object] = set()

    async def wait(request: m.StatusRequest) -> m.StatusReply:
        raise AssertionError("no stream of these brings a request")

    async def describe(request: m.DescribeRequest) -> m.DescribeReply:
        under_way.update(asyncio.all_tasks())
        return m.DescribeReply("x")

    async def work() -> str:
        server = ControlServer()
        server.add(STATUS, wait)
        server.add(DESCRIBE, describe)
        port = await server.start("127.0.0.1:0")
        with await asyncio.to_thread(_open_streams, port, 10_000):
            channel = control.async_channel(port)
            reply = await control.async_call(channel, DESCRIBE, m.DescribeRequest(), DEADLINE)
            await channel.close()
        await server.stop(0)
        return reply.config

    assert asyncio.run(work()) == "x"
    assert len(under_way) < 4 * MOST_STREAMS


# --- the page


def _size(nbytes: int) -> str:
    for unit, name in ((bounds.GIB, "GiB"), (bounds.MIB, "MiB"), (bounds.KIB, "KiB")):
        if nbytes % unit == 0:
            return f"{nbytes // unit} {name}"
    return str(nbytes)


def test_the_page_of_the_protocol_has_these_bounds() -> None:
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    for method in METHODS:
        name = f"{method.service}.{method.name}"
        if name in bounds.MESSAGE_BYTES:
            due = f"{_size(method.request_bytes)}, {_size(method.reply_bytes)}"
            assert rows.get(f"`{name}`: request, reply") == due, name
    assert rows["request and reply of every other method"] == _size(bounds.SMALL_MESSAGE_BYTES)
    assert rows["shard"] == _size(bounds.LARGEST_SHARD_BYTES)
    assert rows["tensors of a table; of a message between layers"] == (
        f"{bounds.MOST_TENSORS:,}; {bounds.MOST_SIGNAL_TENSORS}"
    )
    assert rows["dimensions of a tensor"] == str(bounds.MOST_DIMENSIONS)
    assert rows["characters of a text; of a configuration"] == (
        f"{bounds.MOST_TEXT:,}; {bounds.LONG_TEXTS['DescribeReply', 'config']:,}"
    )
    assert rows["entries of a map or a repeated field"] == f"{bounds.MOST_ENTRIES:,}"
    assert rows["fields of a message with a payload, and bytes beside the payload"] == (
        f"{bounds.MOST_FIELDS:,}, {_size(bounds.MOST_SMALL_BYTES)}"
    )


def test_every_bound_belongs_to_a_method() -> None:
    assert set(bounds.MESSAGE_BYTES) <= {f"{method.service}.{method.name}" for method in METHODS}
