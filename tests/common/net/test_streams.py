"""Calls that stay open, both ways, with gRPC's own other end too; they end in order."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import grpc
import hpack
import pytest

from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES
from common.errors import FencedError, LayerwiseError, TooLargeError, UnreachableError
from common.net import addresses, control
from common.net.data import incoming, streams
from common.net.data.incoming import OpenRequests
from common.net.data.server import DataServer
from common.net.data.streams import Parts, Stream, opened
from common.net.http2 import frames, pipe
from common.net.http2.frames import Code, Kind, frame, settings
from common.shards.pushes import Buffer
from common.wire.methods import EXCHANGE
from tests.common.net.certificates import Contexts, tls
from tests.common.net.test_http2 import HELLO, MESSAGE, data, parsed, with_changes
from tests.integration.processes import until

__all__ = ["tls"]  # a fixture

DEADLINE = 20.0
CLEAR = Contexts()
MIB = 1 << 20
ASK = [(":method", "POST"), (":path", EXCHANGE.path), ("content-type", "application/grpc")]


async def echo(requests: AsyncIterator[Buffer]) -> AsyncGenerator[Parts, None]:
    """Send back what comes, in two parts, and read meanwhile."""
    waiting: asyncio.Queue[Buffer | LayerwiseError | None] = asyncio.Queue()
    reading = asyncio.ensure_future(_read(requests, waiting))
    try:
        while (found := await waiting.get()) is not None:
            if isinstance(found, LayerwiseError):
                raise found
            yield memoryview(found)[:1], memoryview(found)[1:]
    finally:
        reading.cancel()


async def _read(
    requests: AsyncIterator[Buffer], waiting: asyncio.Queue[Buffer | LayerwiseError | None]
) -> None:
    try:
        async for request in requests:
            waiting.put_nowait(request)
        waiting.put_nowait(None)
    except LayerwiseError as error:
        waiting.put_nowait(error)


def _welcoming(handler: streams.Handler) -> streams.Handler:
    """Welcome every caller, whose messages may then be large."""

    async def welcoming(requests: OpenRequests) -> AsyncGenerator[Parts, None]:
        requests.welcome(1)
        async with aclosing(handler(requests)) as answers:
            async for parts in answers:
                yield parts

    return welcoming


class Echo:
    """A server whose open calls are a loop's."""

    def __init__(self, handler: streams.Handler, tls: Contexts = CLEAR) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.errors: list[LayerwiseError] = []
        self.server = DataServer(self.errors.append, tls=tls.server)
        self.tls = tls
        self.server.add_open(EXCHANGE, _welcoming(handler), self.loop)
        self.port = self.server.start("127.0.0.1", 0)

    def open(self) -> AbstractAsyncContextManager[Stream]:
        """Open a call."""
        return opened("127.0.0.1", self.port, EXCHANGE, tls=self.tls.client)

    async def echoed(self, *messages: bytes) -> list[bytes]:
        """Send messages over one call, and return the answers."""
        async with self.open() as call:
            return await exchanged(call, *messages)

    def dial(self) -> socket.socket:
        """Connect by hand."""
        return self.tls.dial(self.port, DEADLINE)

    def tasks(self) -> int:
        """How many are under way on its loop."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(DEADLINE)

    def close(self) -> None:
        self.server.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()


@pytest.fixture
def serve(tls: Contexts) -> Iterator[Callable[[streams.Handler], Echo]]:
    made: list[Echo] = []

    def serving(handler: streams.Handler) -> Echo:
        made.append(Echo(handler, tls))
        return made[-1]

    yield serving
    for each in made:
        each.close()


Serve = Callable[[streams.Handler], Echo]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(DEADLINE):
            return await work

    return asyncio.run(bounded())


async def exchanged(call: Stream, *messages: bytes) -> list[bytes]:
    found = []
    for message in messages:
        reading = asyncio.ensure_future(call.read())
        await call.write(message)
        found.append(bytes(await reading or b""))
    return found


async def echoed(port: int, *messages: bytes) -> list[bytes]:
    async with opened("127.0.0.1", port, EXCHANGE) as call:
        return await exchanged(call, *messages)


def test_messages_of_any_size_come_back(serve: Serve) -> None:
    messages = [b"x", b"", random.Random(1).randbytes(5 * MIB), bytes(20 * MIB), b"end"]
    assert run(serve(echo).echoed(*messages)) == messages


def test_both_ends_may_send_all_the_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows that are full again and again at both ends at once, and news of them behind data."""
    monkeypatch.setattr(frames, "OWN_WINDOW", 1 << 18)
    count, payload = 60, bytes(MIB)

    async def flood(requests: AsyncIterator[Buffer]) -> AsyncGenerator[Parts, None]:
        reading = asyncio.ensure_future(_counted(requests))
        for _ in range(count):
            yield (payload,)
        yield (b"%d" % await reading,)

    async def exchange(server: Echo) -> Buffer | None:
        async with server.open() as call:
            writing = asyncio.ensure_future(_written(call))
            for _ in range(count):
                assert await call.read() == payload
            last = await call.read()
            await writing
            return last

    async def _written(call: Stream) -> None:
        for _ in range(count):
            await call.write(payload)

    async def _counted(requests: AsyncIterator[Buffer]) -> int:
        for _ in range(count):
            assert len(await anext(requests)) == MIB
        return count

    assert run(exchange(serve(flood))) == b"60"


def test_grpcs_client_speaks_with_our_server_and_may_call_again(serve: Serve) -> None:
    echoing = serve(echo)
    address = f"127.0.0.1:{echoing.port}"
    if authority := echoing.tls.authority:
        channel = grpc.secure_channel(
            address, grpc.ssl_channel_credentials(authority), [("grpc.max_receive_message_length", -1)]
        )
    else:
        channel = control.channel(address)
    try:
        for size in (3, 5 * MIB):
            call = channel.stream_stream(EXCHANGE.path)
            sent = [random.Random(size).randbytes(size) for _ in range(3)]
            assert list(call(iter(sent), timeout=DEADLINE)) == sent
    finally:
        channel.close()
    assert not echoing.errors


def test_our_client_speaks_with_grpcs_server() -> None:
    async def work() -> list[bytes]:
        server = control.ControlServer()
        server.add(EXCHANGE, echo)
        _, port = addresses.split_address(await server.start("127.0.0.1:0"))
        try:
            return await echoed(port, b"abc", bytes(5 * MIB))
        finally:
            await server.stop(0)

    assert run(work()) == [b"abc", bytes(5 * MIB)]


async def fencing(requests: AsyncIterator[Buffer]) -> AsyncGenerator[Parts, None]:
    yield (await anext(requests),)
    raise FencedError("it is another's, ü")


def test_an_error_reaches_who_is_still_sending(serve: Serve) -> None:
    async def work() -> None:
        async with server.open() as call:
            await call.write(b"hello")
            assert await call.read() == b"hello"
            writing = asyncio.ensure_future(_all(call))
            try:
                await call.read()
            finally:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    async def _all(call: Stream) -> None:
        while True:
            await call.write(bytes(MIB))

    server = serve(fencing)
    with pytest.raises(FencedError, match="it is another's, ü"):
        run(work())
    assert [type(error) for error in server.errors] == [FencedError]
    until(lambda: not server.tasks())


def test_the_end_of_a_connection_ends_its_call(serve: Serve) -> None:
    ends: list[str] = []

    async def waiting(requests: AsyncIterator[Buffer]) -> AsyncGenerator[Parts, None]:
        try:
            while True:
                yield (await anext(requests),)
        finally:
            ends.append("over")

    server = serve(waiting)
    assert run(server.echoed(b"a")) == [b"a"]
    until(lambda: ends == ["over"] and not server.tasks())
    # Who is gone is nobody to be told of.
    assert not server.errors


def test_a_peer_that_takes_nothing_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "WRITE_SECONDS", 0.3)
    ends: list[str] = []

    async def endless(requests: AsyncIterator[Buffer]) -> AsyncGenerator[Parts, None]:
        assert await anext(requests) == b"go"
        try:
            while True:
                yield (bytes(MIB),)
        finally:
            ends.append("over")

    server = serve(endless)

    async def deaf() -> None:
        async with server.open() as call:
            await call.write(b"go")
            while not ends:
                await asyncio.sleep(0.01)

    run(deaf())
    until(lambda: not server.tasks())


def test_a_length_takes_no_memory_and_too_large_a_one_is_refused(serve: Serve) -> None:
    server = serve(echo)

    def begun(length: int) -> bytes:
        return data(b"\0" + length.to_bytes(4, "big") + b"abc")

    with server.dial() as peer:
        tracemalloc.start()
        peer.sendall(HELLO + asked() + begun(LARGEST_SIGNAL_MESSAGE_BYTES))
        until(lambda: tracemalloc.get_traced_memory()[1] >= incoming.FIRST_BYTES)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 2 * incoming.FIRST_BYTES
    until(lambda: not server.tasks())
    with server.dial() as peer:
        peer.sendall(HELLO + asked() + begun(LARGEST_SIGNAL_MESSAGE_BYTES + 1))
        answer = b""
        while more := peer.recv(1 << 16):
            answer += more
    assert [type(error) for error in server.errors] == [TooLargeError]
    assert parsed(answer)[-1][0] == Kind.GOAWAY


def asked() -> bytes:
    return frame(Kind.HEADERS, frames.END_HEADERS, 1, hpack.Encoder().encode(ASK))


def test_a_server_that_stops_ends_its_calls(serve: Serve) -> None:
    server = serve(echo)

    async def work() -> None:
        async with server.open() as call:
            await call.write(b"a")
            await call.read()
            await asyncio.to_thread(server.server.stop)
            await call.read()

    with pytest.raises(UnreachableError):
        run(work())
    assert not server.tasks()


def test_every_address_of_a_name_is_tried(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(echo)
    port = server.port
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()

    async def both(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, None, None, None, each) for each in (nobody, ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", both)
    assert run(server.echoed(b"a")) == [b"a"]


def test_who_connects_and_asks_nothing_is_ended_in_time() -> None:
    server = DataServer(opening_seconds=0.3)
    port = server.start("127.0.0.1", 0)
    try:
        for said in (b"", HELLO):
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as silent:
                silent.sendall(said)
                until(lambda: len(server._threads) == 1)
                until(lambda: not server._threads)
    finally:
        server.stop()


def test_nobody_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{port}: does not answer"):
        run(echoed(port, b""))
    with pytest.raises(UnreachableError, match=r"no\.such\.host\.invalid:1: does not answer"):
        run(_nowhere())


async def _nowhere() -> None:
    async with opened("no.such.host.invalid", 1, EXCHANGE):
        pass


def test_what_does_not_speak_http2_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CONNECT_SECONDS", 0.3)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(UnreachableError, match="does not speak HTTP/2"):
        run(echoed(silent.getsockname()[1], b""))


def test_a_call_that_nobody_serves_is_refused(serve: Serve) -> None:
    server = DataServer()
    port = server.start("127.0.0.1", 0)
    try:
        with pytest.raises(LayerwiseError, match="this port serves"):
            run(echoed(port, b"a"))
    finally:
        server.stop()


# --- whatever bytes come ----------------------------------------------------------------------------------


def mutated(rng: random.Random) -> bytes:
    """A conversation with some of its bytes changed, lost, repeated or added."""
    talk = [HELLO, asked(), data(MESSAGE), frame(Kind.PING, payload=bytes(8)), data(MESSAGE * 50)]
    talk += [frames.window_update(1, 9), data(MESSAGE, flags=frames.END_STREAM)]
    talk += [frames.reset(1, Code.CANCEL)] * (rng.random() < 0.3)
    return with_changes(rng, talk)


@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.slow)])
def test_mutated_bytes_end_a_call_in_order(
    serve: Serve, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng, server = random.Random(11), serve(echo)
    for _ in range(count):
        with server.dial() as peer:
            try:
                peer.sendall(mutated(rng))
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(1 << 16):
                    pass
            except ConnectionError:
                pass
    until(lambda: not server.tasks() and not server.server._threads)
    # A defect of ours would be in the log with its traceback.
    assert not [record for record in caplog.records if record.exc_info or record.name == "asyncio"]


def test_a_client_survives_what_a_server_should_not_say() -> None:
    rng = random.Random(5)
    begun, over = (hpack.Encoder().encode([each]) for each in ((":status", "200"), ("grpc-status", "0")))
    good = settings({}) + frame(Kind.HEADERS, frames.END_HEADERS, 1, begun)
    good += data(MESSAGE * 3) + frame(Kind.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, over)

    async def talk(listening: socket.socket) -> None:
        async with opened("127.0.0.1", listening.getsockname()[1], EXCHANGE) as call:
            await call.write(b"a")
            while await call.read() is not None:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        outcomes = set()
        for _ in range(200):
            changed = bytearray(good)
            for _ in range(rng.randint(0, 4)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            answering = threading.Thread(target=_say, args=(listening, bytes(changed)))
            answering.start()
            try:
                run(talk(listening))
                outcomes.add("whole")
            except LayerwiseError:
                outcomes.add("broken")
            answering.join(DEADLINE)
    assert outcomes == {"whole", "broken"}


def _say(listening: socket.socket, what: bytes) -> None:
    peer, _ = listening.accept()
    with peer:
        peer.sendall(what)
        peer.shutdown(socket.SHUT_WR)
        try:
            while peer.recv(1 << 16):
                pass
        except ConnectionError:
            pass
