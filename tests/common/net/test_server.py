"""common.net.data.server: identity, addresses, silent peers, ends without END, and a stop in bounded time."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import hpack
import pytest

from common.credentials import INCARNATION, NOBODY, Admit, Credentials
from common.errors import FencedError, LayerwiseError, MalformedError, UnreachableError
from common.net.data import streams
from common.net.data.client import DataClient
from common.net.data.incoming import OpenRequests
from common.net.data.messages import CONTENT_TYPE, Messages
from common.net.data.server import DataServer
from common.net.data.streams import Parts, opened
from common.net.http2 import frames
from common.net.http2.frames import BrokenError, Kind, frame
from common.wire.methods import EXCHANGE, PULL, PUSH
from tests.common.net.certificates import Contexts, tls
from tests.common.net.test_http2 import HELLO, data
from tests.integration.processes import until

__all__ = ["tls"]  # a fixture

DEADLINE = 20.0
STOP_SECONDS = 5.0
MIB = 1 << 20


class Served:
    """A server with handlers that idle, block and never read; counts the calls that began and ended."""

    def __init__(self, tls: Contexts, admit: Admit = lambda *_: None, **options: Any) -> None:
        self.tls = tls
        self.began: list[str] = []
        self.ends: list[BaseException | None] = []
        self.errors: list[LayerwiseError] = []
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.server = DataServer(self.errors.append, admit=admit, tls=tls.server, **options)
        self.server.add(PUSH, self._read_all)
        self.server.add(PULL, self._write_forever)
        self.server.add_open(EXCHANGE, self._exchange, self.loop)
        self.port = self.server.start("127.0.0.1", 0)

    def _read_all(self, messages: Messages) -> None:
        self.began.append("read")
        try:
            while messages.read() is not None:
                pass
            self.ends.append(None)
        except LayerwiseError as error:
            self.ends.append(error)
            raise

    def _write_forever(self, messages: Messages) -> None:
        self.began.append("write")
        while True:
            messages.send(bytes(MIB))

    async def _exchange(self, requests: OpenRequests) -> AsyncGenerator[Parts, None]:
        word = bytes(await anext(requests))
        requests.welcome(1)
        self.began.append(word.decode())
        try:
            while word == b"write":  # and never read
                yield (bytes(MIB),)
            async for request in requests:
                yield (request,)
            self.ends.append(None)
        except LayerwiseError as error:
            self.ends.append(error)
            raise

    def dial(self, path: str | None, *words: bytes, identity: str | None = None) -> socket.socket:
        """Connect by hand, open a call of a path, and send messages."""
        stream = self.tls.dial(self.port, DEADLINE)
        stream.sendall(HELLO)
        if path is not None:
            headers = [(":method", "POST"), (":path", path), ("content-type", CONTENT_TYPE)]
            headers += [(INCARNATION, identity)] if identity is not None else []
            stream.sendall(frame(Kind.HEADERS, frames.END_HEADERS, 1, hpack.Encoder().encode(headers)))
        for word in words:
            stream.sendall(data(b"\0" + len(word).to_bytes(4, "big") + word))
        return stream

    def client(self, incarnation: int = 0) -> DataClient:
        return DataClient(lambda: ("127.0.0.1", self.port), Credentials(incarnation), self.tls.client)

    def tasks(self) -> int:
        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(DEADLINE)

    def close(self) -> None:
        self.server.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()


@pytest.fixture
def served(tls: Contexts) -> Iterator[Served]:
    serving = Served(tls)
    yield serving
    serving.close()


# --- stop


def test_a_stop_ends_idle_and_blocked_connections_calls_and_streams_in_bounded_time(served: Served) -> None:
    peers = [
        served.dial(None),
        served.dial(PUSH.path),
        served.dial(PUSH.path, b"half"),
        served.dial(PULL.path),
        served.dial(EXCHANGE.path),
        served.dial(EXCHANGE.path, b"idle"),
        served.dial(EXCHANGE.path, b"write"),
    ]
    try:
        until(lambda: sorted(served.began) == ["idle", "read", "read", "write", "write"])
        began = time.monotonic()
        served.server.stop()
        assert time.monotonic() - began < STOP_SECONDS
        assert not served.server._threads
        until(lambda: not served.tasks())
    finally:
        for peer in peers:
            peer.close()


# --- only an explicit END ends a stream


@pytest.mark.parametrize("path", [PUSH.path, EXCHANGE.path])
def test_a_connection_that_is_cut_between_messages_does_not_read_as_the_end(
    served: Served, path: str
) -> None:
    with served.dial(path, b"one"):
        until(lambda: bool(served.began))
    until(lambda: bool(served.ends))
    assert isinstance(served.ends[0], BrokenError)


@pytest.mark.parametrize("path", [PUSH.path, EXCHANGE.path])
def test_a_stream_that_its_sender_ends_reads_as_the_end(served: Served, path: str) -> None:
    with served.dial(path, b"one") as peer:
        peer.sendall(data(b"", flags=frames.END_STREAM))
        until(lambda: served.ends == [None])


# --- who calls


def test_the_identity_of_a_caller_is_checked_before_a_handler_runs(tls: Contexts) -> None:
    asked: list[tuple[str, Credentials]] = []

    def admit(path: str, shown: Credentials) -> None:
        asked.append((path, shown))
        if shown.incarnation == 7:
            raise FencedError("incarnation 7 is fenced")

    serving = Served(tls, admit)

    async def open_as(incarnation: int) -> None:
        async with opened(
            "127.0.0.1", serving.port, EXCHANGE, shown=Credentials(incarnation, "s"), tls=tls.client
        ) as stream:
            await stream.write(b"idle")
            await stream.write(b"x")
            assert await stream.read() == b"x"

    try:
        with pytest.raises(FencedError, match="7 is fenced"), serving.client(7).call(PUSH) as call:
            call.read(DEADLINE)
        with pytest.raises(FencedError, match="7 is fenced"):
            asyncio.run(open_as(7))
        assert serving.began == []
        asyncio.run(open_as(8))
        with serving.client().call(PUSH) as call:
            call.end()
        assert serving.began == ["idle", "read"]
        assert asked == [
            (PUSH.path, Credentials(7)),
            (EXCHANGE.path, Credentials(7, "s")),
            (EXCHANGE.path, Credentials(8, "s")),
            (PUSH.path, NOBODY),
        ]
    finally:
        serving.close()


@pytest.mark.parametrize("identity", ["", "-1", "x", "1" * 21, "\u0661"])
def test_an_identity_that_is_no_number_is_refused(served: Served, identity: str) -> None:
    with served.dial(PUSH.path, identity=identity):
        until(lambda: [type(error) for error in served.errors] == [MalformedError])
    assert served.began == []


# --- silent peers


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PING_SECONDS", 0.1)
    monkeypatch.setattr(streams, "SILENT_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
def test_a_server_ends_the_stream_of_a_peer_that_does_not_answer_pings(served: Served) -> None:
    with served.dial(EXCHANGE.path, b"idle"):
        until(lambda: bool(served.began))
        until(lambda: bool(served.ends) and not served.tasks())
    assert isinstance(served.ends[0], BrokenError)


@pytest.mark.usefixtures("impatient")
def test_a_client_ends_the_stream_of_a_server_that_does_not_answer_pings() -> None:
    async def wait(port: int) -> None:
        async with opened("127.0.0.1", port, EXCHANGE) as stream:
            await stream.read()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        stopped: list[socket.socket] = []

        def accept() -> None:
            peer, _ = listening.accept()
            peer.sendall(frames.settings({}))
            stopped.append(peer)

        accepting = threading.Thread(target=accept)
        accepting.start()
        with pytest.raises(UnreachableError):
            asyncio.run(asyncio.wait_for(wait(port), DEADLINE))
        accepting.join(DEADLINE)
        stopped[0].close()


@pytest.mark.usefixtures("impatient")
def test_idle_peers_that_answer_pings_stay_connected(served: Served) -> None:
    async def idle() -> bytes:
        async with opened("127.0.0.1", served.port, EXCHANGE, tls=served.tls.client) as stream:
            await stream.write(b"idle")
            reading = asyncio.ensure_future(stream.read())
            done, _ = await asyncio.wait([reading], timeout=3 * streams.SILENT_SECONDS)
            assert not done
            await stream.write(b"still here")
            return bytes(await reading or b"")

    assert asyncio.run(asyncio.wait_for(idle(), DEADLINE)) == b"still here"


# --- addresses


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("listen", "reached"),
    [
        ("[::]", {"127.0.0.1", "::1"}),
        ("[::1]", {"::1"}),
        ("127.0.0.1", {"127.0.0.1"}),
        # As at the control port, which gRPC serves.
        ("0.0.0.0", {"127.0.0.1", "::1"}),
    ],
)
def test_a_server_listens_on_ipv4_ipv6_or_both(listen: str, reached: set[str]) -> None:
    def ended(messages: Messages) -> None:
        assert messages.read() is None

    server = DataServer()
    server.add(PUSH, ended)
    port = server.start(listen, 0)
    found = set()
    try:
        for host in ("127.0.0.1", "::1"):
            client = DataClient(lambda host=host: (host, port))  # type: ignore[misc]
            try:
                with client.call(PUSH) as call:
                    call.end()
                found.add(host)
            except UnreachableError:
                pass
            finally:
                client.drop()
    finally:
        server.stop()
    assert found == reached


def test_a_send_has_time_of_its_own_for_the_window(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "OWN_WINDOW", 1 << 18)
    client = served.client(1)
    with client.call(PUSH) as first:
        first.end()
    # The second call opens with an expired deadline, as a call does that has been open for long.
    monkeypatch.setattr("common.net.data.client.CONNECT_SECONDS", 0.0)
    with client.call(PUSH) as call:
        call.send(b"\0" + MIB.to_bytes(4, "big"), bytes(MIB))
        monkeypatch.undo()
        call.end()
    assert served.ends == [None, None]
    client.drop()


@contextmanager
def no_free_files() -> Iterator[None]:
    """Take every file that this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(taken[0], *map(int, os.listdir("/proc/self/fd"))) + 1, hard)
    )
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for file in taken:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_port_without_free_files_takes_connections_once_some_are_free(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with socket.socket() as stream:
        stream.settimeout(DEADLINE)
        with no_free_files():
            stream.connect(("127.0.0.1", served.port))
            until(lambda: "takes no connection" in caplog.text, DEADLINE)
    with served.client().call(PUSH) as call:
        call.end()
    assert served.ends == [None]
    # The accepting thread logs after it has started the call's thread.
    until(lambda: "goes on after" in caplog.text, DEADLINE)
