"""TLS of the data plane: handshakes that fail do so in bounded time, and certificates are checked."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

import grpc
import pytest

from common.errors import LayerwiseError, RefusedError, StalledError, UnreachableError
from common.net.data import client as data_client
from common.net.data import streams
from common.net.data.client import DataClient
from common.net.data.messages import Messages
from common.net.data.server import DataServer
from common.net.data.streams import Parts, opened
from common.net.http2.tls import Tls
from common.shards.pushes import Buffer
from common.wire.methods import EXCHANGE, PUSH
from tests.common.net.certificates import contexts
from tests.integration.processes import until

DEADLINE = 20.0
OPENING_SECONDS = 0.5


def echo(messages: Messages) -> None:
    while (message := messages.read()) is not None:
        messages.send(message)


async def echo_open(requests: AsyncIterator[Buffer]) -> AsyncGenerator[Parts, None]:
    async for request in requests:
        yield (request,)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    running = asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    yield running
    running.call_soon_threadsafe(running.stop)
    thread.join(DEADLINE)
    running.close()


class Serving:
    """A server with TLS, or without."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: Tls | None) -> None:
        self.server = DataServer(opening_seconds=OPENING_SECONDS, tls=tls)
        self.server.add(PUSH, echo)
        self.server.add_open(EXCHANGE, echo_open, loop)
        self.port = self.server.start("127.0.0.1", 0)

    def settle(self) -> None:
        """Wait until no connection is left."""
        until(lambda: not self.server._threads)


@pytest.fixture
def secure(loop: asyncio.AbstractEventLoop) -> Iterator[Serving]:
    serving = Serving(loop, contexts().server)
    yield serving
    serving.server.stop()


@pytest.fixture
def clear(loop: asyncio.AbstractEventLoop) -> Iterator[Serving]:
    serving = Serving(loop, None)
    yield serving
    serving.server.stop()


def call(port: int, tls: Tls | None, host: str = "127.0.0.1") -> bytes:
    """One message and its answer, from a thread."""
    client = DataClient(lambda: (host, port), tls=tls)
    try:
        with client.call(PUSH) as calling:
            calling.send(b"abc")
            return bytes(calling.read(DEADLINE) or b"")
    finally:
        client.drop()


def call_open(port: int, tls: Tls | None, host: str = "127.0.0.1") -> bytes:
    """One message and its answer, from an event loop."""

    async def work() -> bytes:
        async with opened(host, port, EXCHANGE, tls=tls) as stream:
            await stream.write(b"abc")
            return bytes(await stream.read() or b"")

    return asyncio.run(asyncio.wait_for(work(), DEADLINE))


Calling = Callable[..., bytes]
CALLS = pytest.mark.parametrize("calling", [call, call_open], ids=["thread", "loop"])


@CALLS
def test_a_trusted_server_answers(secure: Serving, calling: Calling) -> None:
    assert calling(secure.port, contexts().client) == b"abc"


@CALLS
def test_an_untrusted_certificate_is_refused(secure: Serving, calling: Calling) -> None:
    # The authorities of the system take time to load, which the server does not give a connection.
    context = ssl.create_default_context()
    with pytest.raises(RefusedError, match="certificate of a peer is not trusted"):
        calling(secure.port, Tls(lambda: context))
    secure.settle()


@CALLS
def test_a_certificate_of_another_name_is_refused(calling: Calling) -> None:
    server = DataServer(tls=contexts().server)
    port = server.start("127.0.0.2", 0)
    try:
        with pytest.raises(RefusedError, match="certificate of a peer is not trusted"):
            calling(port, contexts().client, "127.0.0.2")
    finally:
        server.stop()


def test_a_grpc_client_in_the_clear_fails_at_a_port_with_tls_and_does_not_try_up_to_its_deadline(
    secure: Serving,
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{secure.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(PUSH.path)(iter([b"abc"]), timeout=DEADLINE))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    secure.settle()


@CALLS
def test_a_client_in_the_clear_is_refused_at_a_port_with_tls(secure: Serving, calling: Calling) -> None:
    began = time.monotonic()
    with pytest.raises(RefusedError, match="the peer speaks TLS alone; give the folder of a certificate"):
        calling(secure.port, None)
    secure.settle()
    assert time.monotonic() - began < DEADLINE / 2


@CALLS
def test_a_client_with_tls_is_refused_at_a_port_in_the_clear(clear: Serving, calling: Calling) -> None:
    began = time.monotonic()
    with pytest.raises(RefusedError, match="the peer speaks no TLS"):
        calling(clear.port, contexts().client)
    clear.settle()
    assert time.monotonic() - began < DEADLINE / 2


@CALLS
def test_a_server_that_says_nothing_ends_the_handshake_by_a_deadline(
    calling: Calling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_client, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(streams, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UnreachableError):
        calling(silent.getsockname()[1], contexts().client)


def test_a_client_that_says_nothing_or_drips_ends_the_handshake_by_a_deadline(secure: Serving) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), DEADLINE):
        until(lambda: len(secure.server._threads) == 1)
        secure.settle()
    with socket.create_connection(("127.0.0.1", secure.port), DEADLINE) as dripping:
        began = time.monotonic()
        # A record of a handshake that claims 200 bytes, of which one comes at a time.
        hello = bytes((22, 3, 1, 0, 200)) + bytes(200)
        try:
            for byte in hello:
                dripping.sendall(bytes((byte,)))
                threading.Event().wait(0.05)
                if not secure.server._threads:
                    break
        except ConnectionError:
            pass
        secure.settle()
        assert time.monotonic() - began < OPENING_SECONDS + 5.0


def test_a_client_that_does_not_offer_http2_is_refused(secure: Serving) -> None:
    context = ssl.create_default_context(cadata=contexts().authority.decode())
    with (
        socket.create_connection(("127.0.0.1", secure.port), DEADLINE) as stream,
        context.wrap_socket(stream, server_hostname="127.0.0.1") as talking,
    ):
        assert talking.recv(1) == b""
    secure.settle()


def test_a_message_that_stops_short_is_given_up_by_its_deadline() -> None:
    def stall(messages: Messages) -> None:
        messages.read()

    errors: list[LayerwiseError] = []
    server = DataServer(errors.append, stalled_seconds=0.2, tls=contexts().server)
    server.add(PUSH, stall)
    port = server.start("127.0.0.1", 0)
    client = DataClient(lambda: ("127.0.0.1", port), tls=contexts().client)
    try:
        with pytest.raises(UnreachableError, match="stood still"):
            _send_half(client)
    finally:
        client.drop()
        server.stop()
    assert [type(error) for error in errors] == [StalledError]


def _send_half(client: DataClient) -> None:
    with client.call(PUSH) as calling:
        calling._connection.send(b"\0\0\0\0\3a")
        calling.read(DEADLINE)
