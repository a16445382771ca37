"""common.net.http2 under floods: frames without payload, answers that are not taken, writes cut half-way."""

from __future__ import annotations

import asyncio
import socket
import threading
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import grpc
import hpack
import pytest

from common.errors import MalformedError
from common.net.data.messages import CONTENT_TYPE, Messages, status_headers
from common.net.data.server import DataServer
from common.net.http2 import budget, frames, pipe, reception
from common.net.http2.end import End
from common.net.http2.frames import BrokenError, Code, Kind, ProtocolError, frame, settings
from common.net.http2.loop_pipe import MOST_WAITING, LoopPipe
from common.net.http2.pipe import run_sync
from common.net.http2.thread_pipe import ThreadPipe
from common.wire.methods import PUSH
from tests.common.net.certificates import Contexts, tls
from tests.common.net.test_http2 import (
    HELLO,
    MESSAGE,
    Echo,
    bodies,
    connected,
    data,
    goodbye,
    headers,
    parsed,
    said,
    server,
)
from tests.common.net.test_streams import asked, echo, serve

__all__ = ["serve", "server", "tls"]  # fixtures

DEADLINE = 20.0
MANY = 4 * budget.MOST_IDLE_FRAMES


def _resets(count: int) -> Iterator[bytes]:
    """Streams that are given up as soon as they are open."""
    for stream in range(3, 2 * count + 3, 2):
        yield headers(stream)
        yield frames.reset(stream, Code.CANCEL)


FLOODS: dict[str, Callable[[], list[bytes]]] = {
    "empty DATA": lambda: [data(b"")] * MANY,
    "DATA of a byte": lambda: [data(b"\0" + (1 << 20).to_bytes(4, "big")), *[data(b"x")] * MANY],
    "DATA of padding": lambda: [data(b"\xc8" + bytes(200), flags=frames.PADDED)] * MANY,
    "PRIORITY": lambda: [frame(Kind.PRIORITY, stream=1, payload=bytes(5))] * MANY,
    "SETTINGS": lambda: [settings({})] * MANY,
    "SETTINGS of many keys": lambda: [frame(Kind.SETTINGS, payload=b"\0\x10\0\0\0\1" * 2700)] * (MANY // 60),
    "acknowledged SETTINGS": lambda: [frame(Kind.SETTINGS, frames.ACK)] * MANY,
    "WINDOW_UPDATE": lambda: [frames.window_update(1, 1)] * MANY,
    "PING": lambda: [frame(Kind.PING, payload=bytes(8))] * MANY,
    "GOAWAY": lambda: [frames.goaway(0, Code.NO_ERROR, "")] * MANY,
    "an unknown kind": lambda: [bytes((0, 0, 0, 77, 0, 0, 0, 0, 0))] * MANY,
    "HEADERS of a stream that is over": lambda: [headers(3), *[headers(3)] * MANY],
    "refused streams": lambda: [headers(stream) for stream in range(3, 2 * MANY, 2)],
    "empty CONTINUATION": lambda: [headers(3, flags=0), *[frame(Kind.CONTINUATION, 0, 3)] * MANY],
    "rapid resets": lambda: [frames.reset(1, Code.CANCEL), *_resets(MANY)],
    "data of a stream that is over": lambda: [
        data(b"", flags=frames.END_STREAM), *[data(bytes(1000))] * MANY],
}  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS)
def test_a_peer_whose_frames_bring_nothing_is_told_to_calm_down(server: Echo, flood: str) -> None:
    assert goodbye(said(server, HELLO, headers(), *FLOODS[flood]())) == Code.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("flood", ["empty DATA", "PRIORITY", "PING", "DATA of a byte"])
def test_an_open_stream_has_the_budget_too(serve: Any, flood: str) -> None:
    serving = serve(echo)
    assert goodbye(said(serving, HELLO, asked(), *FLOODS[flood]())) == Code.ENHANCE_YOUR_CALM


def test_payload_in_either_direction_earns_further_frames(server: Echo) -> None:
    with connected(server) as connection:
        connection.request([(":method", "POST"), (":path", PUSH.path), ("content-type", CONTENT_TYPE)])
        messages = Messages(connection)
        connection.headers()
        for number in range(budget.MOST_IDLE_FRAMES):
            connection.pipe.enqueue(frame(Kind.PING, payload=number.to_bytes(8, "big")))
            connection.pipe.enqueue(settings({}))
            messages.send(b"abc")
            assert bytes(messages.read() or b"") == b"abc"


def test_rare_frames_without_payload_are_allowed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    counted = budget.FrameBudget()
    for now in range(10 * budget.MOST_IDLE_FRAMES):  # noqa: B007 - read by the clock
        counted.spend()
    for _ in range(2):  # as much as was left, and the whole of a new period
        counted.spend(budget.MOST_IDLE_FRAMES)
    with pytest.raises(ProtocolError, match="without payload"):
        counted.spend(budget.MOST_IDLE_FRAMES)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(DEADLINE):
            return await work

    return asyncio.run(bounded())


@pytest.mark.parametrize("what", [frame(Kind.PRIORITY, stream=1, payload=bytes(5)), data(b"x" * 4096)])
def test_the_event_loop_has_its_turn_while_a_peer_floods(
    what: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MOST_IDLE_FRAMES", 1 << 30)
    count = 20 * reception.TURN_FRAMES
    turns = 0

    async def work() -> None:
        nonlocal turns
        ours, theirs = socket.socketpair()
        bye = frames.goaway(0, Code.NO_ERROR, "")
        sending = threading.Thread(target=theirs.sendall, args=(HELLO + headers() + what * count + bye,))
        sending.start()
        reading = asyncio.ensure_future(_read(ours))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        await reading
        sending.join()
        theirs.close()

    async def _read(ours: socket.socket) -> None:
        ours_pipe = LoopPipe(ours)
        end = End(ours_pipe, serves=True)
        await end.open()
        assert await end.accept() is not None
        while not end._going_away:
            await end._step()
        await ours_pipe.close()

    run(work())
    assert turns >= count // reception.TURN_FRAMES


def test_answers_that_are_not_taken_end_the_connection_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "MOST_IDLE_FRAMES", 1 << 30)

    async def work() -> int:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        pinging = threading.Thread(target=_ping, args=(theirs,))
        pinging.start()
        ours_pipe = LoopPipe(ours)
        end = End(ours_pipe, serves=True)
        await end.open()
        tracemalloc.start()
        with pytest.raises(ProtocolError, match="takes no answers") as caught:
            await _step_on(end)
        assert caught.value.code is Code.ENHANCE_YOUR_CALM
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await ours_pipe.close()
        await asyncio.to_thread(pinging.join)
        theirs.close()
        return most

    async def _step_on(end: End) -> None:
        while True:
            await end._step()

    def _ping(theirs: socket.socket) -> None:
        with suppress(OSError):
            theirs.sendall(HELLO)
            while True:
                theirs.sendall(frame(Kind.PING, payload=bytes(8)) * 1000)

    assert run(work()) < 1 << 20
    assert MOST_WAITING * 17 < 64 << 10


# --- writes that end half-way


def drained(stream: socket.socket) -> int:
    """Read everything until the end, and count the bytes."""
    count = 0
    stream.settimeout(DEADLINE)
    with suppress(ConnectionError):
        while got := stream.recv(1 << 16):
            count += len(got)
    return count


def test_a_threads_connection_with_a_write_that_timed_out_is_of_no_more_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipe, "WRITE_SECONDS", 0.1)
    ours, theirs = socket.socketpair()
    sending = ThreadPipe(ours)
    with pytest.raises(BrokenError, match="does not take"):
        run_sync(sending.write(bytes(8 << 20)))
    sent = drained(theirs)
    with pytest.raises(BrokenError):
        run_sync(sending.write(b"and on it goes"))
    assert 0 < sent < 8 << 20
    sending.close()
    theirs.close()


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_loops_connection_with_a_write_that_ended_half_way_is_of_no_more_use(
    cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cancelled:
        monkeypatch.setattr(pipe, "WRITE_SECONDS", 0.1)

    async def work() -> None:
        ours, theirs = socket.socketpair()
        sending = LoopPipe(ours)
        writing = asyncio.ensure_future(sending.write(bytes(8 << 20)))
        if cancelled:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        with pytest.raises(BrokenError):
            await sending.write(b"and on it goes")
        assert 0 < await asyncio.to_thread(drained, theirs) < 8 << 20
        await sending.close()
        theirs.close()

    run(work())


# --- slow links


def _read_slowly(theirs: socket.socket, nbytes: int, got: list[int]) -> None:
    """Take 64 KiB every 10 ms."""
    pause = threading.Event()
    while sum(got) < nbytes and (piece := theirs.recv(1 << 16)):
        got.append(len(piece))
        pause.wait(0.01)


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_slow_reader_that_keeps_the_rate_gets_a_long_message(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write takes many times the window, within which nothing but the rate counts."""
    # A reader that a busy machine keeps waiting for less than that is no standstill.
    monkeypatch.setattr(pipe, "WRITE_SECONDS", 0.5)
    nbytes = 24 << 20
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        theirs.connect(listening.getsockname())
        ours, _ = listening.accept()
    got: list[int] = []
    reading = threading.Thread(target=_read_slowly, args=(theirs, nbytes, got))
    reading.start()

    async def on_loop() -> None:
        sending = LoopPipe(ours)
        await sending.write(bytes(nbytes))
        await asyncio.to_thread(reading.join)
        await sending.close()

    if kind == "loop":
        run(on_loop())
    else:
        sending = ThreadPipe(ours)
        run_sync(sending.write(bytes(nbytes)))
        reading.join()
        sending.close()
    assert sum(got) == nbytes
    theirs.close()


# --- the letter of the rules


def test_an_empty_continuation_that_ends_the_headers_is_legal(server: Echo) -> None:
    split = [
        headers(flags=0),
        frame(Kind.CONTINUATION, 0, 1),
        frame(Kind.CONTINUATION, frames.END_HEADERS, 1),
    ]
    answer = said(server, HELLO, *split, data(MESSAGE, flags=frames.END_STREAM), over=1)
    assert bodies(answer) == MESSAGE


TEXT = 'tensor "a/b": 100% of ~1 {x} were\tlost, für \x7f'


def test_a_statuss_text_is_escaped_as_grpc_has_it(tls: Contexts) -> None:
    (_, encoded) = status_headers("INVALID_ARGUMENT", TEXT)[1]
    assert encoded == 'tensor "a/b": 100%25 of ~1 {x} were%09lost, f%C3%BCr %7F'

    def refuse(messages: Messages) -> None:
        raise MalformedError(TEXT)

    serving = DataServer(tls=tls.server)
    serving.add(PUSH, refuse)
    port = serving.start("127.0.0.1", 0)
    answer = said(Echo(port, tls), HELLO, headers(), over=1)
    decoder = hpack.Decoder()
    blocks = [
        [(str(k), str(v)) for k, v in decoder.decode(payload)]
        for kind, _, _, payload in parsed(answer)
        if kind == Kind.HEADERS
    ]
    assert dict(blocks[-1])["grpc-message"] == encoded
    if not tls.authority:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        with channel, pytest.raises(grpc.RpcError) as caught:
            channel.stream_stream(PUSH.path)(iter([b"x"]), timeout=DEADLINE).next()
        assert caught.value.details() == TEXT
    serving.stop()
