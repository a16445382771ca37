"""Silent and crowding strangers at a data port: ended in time, and never in a lease holder's place."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import hpack
import pytest

from common.bounds import SMALL_MESSAGE_BYTES
from common.credentials import Credentials
from common.errors import FencedError, StalledError, TooLargeError, UnreachableError
from common.net.data import callers, streams
from common.net.data.messages import CONTENT_TYPE
from common.net.data.places import Bounds
from common.net.data.streams import opened
from common.net.http2 import frames
from common.net.http2.frames import BrokenError, Kind, frame
from common.wire.methods import EXCHANGE, PUSH
from tests.common.net.certificates import Contexts, tls
from tests.common.net.test_http2 import HELLO, data
from tests.common.net.test_server import DEADLINE, Served
from tests.integration.processes import until

__all__ = ["tls"]  # a fixture

CLEAR = Contexts()
SILENT_SECONDS = 0.3
# A stranger has as long as a test lasts.
PATIENT = 2 * DEADLINE

Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[Served] = []

    def serving(*arguments: Any, **options: Any) -> Served:
        made.append(Served(*arguments, **options))
        return made[-1]

    yield serving
    for each in made:
        each.close()


def begun(length: int, sent: int = 3) -> bytes:
    """Begin a message of `length` bytes, of which `sent` are sent."""
    return data(b"\0" + length.to_bytes(4, "big") + bytes(sent))


def message(length: int) -> bytes:
    """Send a message as frames of 16 KiB at most."""
    whole = b"\0" + length.to_bytes(4, "big") + bytes(length)
    return b"".join(data(whole[at : at + 16_000]) for at in range(0, len(whole), 16_000))


def read_to_the_end(peer: socket.socket) -> bytes:
    found = b""
    while more := peer.recv(1 << 16):
        found += more
    return found


# --- time


def test_a_strangers_call_that_stays_silent_ends_in_time(serve: Serve, tls: Contexts) -> None:
    served = serve(tls, opening_seconds=SILENT_SECONDS)
    with served.dial(PUSH.path) as peer:
        read_to_the_end(peer)
    assert [type(error) for error in served.errors] == [StalledError]
    until(lambda: not served.server._threads)


@pytest.mark.parametrize("identity", [None, "7"])
def test_a_message_that_begins_and_stops_ends_its_call(
    serve: Serve, tls: Contexts, identity: str | None
) -> None:
    served = serve(tls, stalled_seconds=SILENT_SECONDS)
    with served.dial(PUSH.path, identity=identity) as peer:
        peer.sendall(begun(1000))
        read_to_the_end(peer)
    assert [type(error) for error in served.errors] == [StalledError]
    until(lambda: not served.server._threads)


def test_a_message_of_an_open_stream_that_begins_and_stops_ends_the_stream(
    serve: Serve, tls: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_SECONDS", 0.05)
    monkeypatch.setattr(streams, "MESSAGE_SECONDS", SILENT_SECONDS)
    served = serve(tls)
    with served.dial(EXCHANGE.path, b"idle") as peer:
        until(lambda: bool(served.began))
        peer.sendall(begun(1000))
        read_to_the_end(peer)
    until(lambda: bool(served.ends) and not served.tasks())
    assert isinstance(served.ends[0], BrokenError)


def test_a_lease_holder_may_be_silent_for_as_long_as_the_lease_lasts(
    serve: Serve, tls: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "LEASE_SECONDS", 0.05)
    fenced, looked = threading.Event(), []

    def admit(path: str, shown: Credentials) -> None:
        looked.append((path, shown))
        if fenced.is_set():
            raise FencedError("incarnation 7 is fenced")

    served = serve(tls, admit, opening_seconds=SILENT_SECONDS)
    with served.client(7).call(PUSH) as call:
        until(lambda: len(looked) > 2 * SILENT_SECONDS / 0.05)
        assert not served.ends
        fenced.set()
        with pytest.raises(FencedError, match="7 is fenced"):
            call.read(DEADLINE)
    assert [type(error) for error in served.ends] == [FencedError]


def test_a_strangers_connection_without_a_call_ends_and_the_client_opens_another(
    serve: Serve, tls: Contexts
) -> None:
    served = serve(tls, opening_seconds=SILENT_SECONDS)
    client = served.client()
    for _ in range(2):
        with client.call(PUSH) as call:
            call.end()
        until(lambda: not served.server._threads)
    assert served.ends == [None, None]
    client.drop()


# --- size


@pytest.mark.parametrize("path", [PUSH.path, EXCHANGE.path])
def test_a_strangers_message_is_small(serve: Serve, tls: Contexts, path: str) -> None:
    served = serve(tls, opening_seconds=SILENT_SECONDS)
    with served.dial(path) as peer:
        peer.sendall(begun(SMALL_MESSAGE_BYTES + 1))
        read_to_the_end(peer)
    assert [type(error) for error in served.errors] == [TooLargeError]
    assert "at most 65536" in str(served.errors[0])


def test_a_message_after_a_lease_was_shown_may_be_large(serve: Serve, tls: Contexts) -> None:
    served = serve(tls)
    with served.dial(PUSH.path, identity="7") as peer:
        peer.sendall(message(2 * SMALL_MESSAGE_BYTES) + data(b"", flags=frames.END_STREAM))
        until(lambda: served.ends == [None])


# --- number


def crowd(port: int, addresses: list[str], path: str = PUSH.path) -> list[socket.socket]:
    """Open a silent call from each address."""
    headers = hpack.Encoder().encode([(":method", "POST"), (":path", path), ("content-type", CONTENT_TYPE)])
    found = []
    for address in addresses:
        stream = socket.create_connection(("127.0.0.1", port), DEADLINE, (address, 0))
        stream.sendall(HELLO + frame(Kind.HEADERS, frames.END_HEADERS, 1, headers))
        found.append(stream)
    return found


HERE = "127.0.0.1"
BOUNDS = Bounds(holders=8, holder=2, strangers=12, address=6)


@pytest.mark.parametrize(
    "addresses", [[HERE] * 6, [f"127.0.0.{2 + i // 4}" for i in range(12)]], ids=["one", "several"]
)
def test_a_lease_holder_gets_through_while_strangers_hold_all_that_they_may(
    serve: Serve, addresses: list[str]
) -> None:
    served = serve(CLEAR, opening_seconds=PATIENT, bounds=BOUNDS)
    with ExitStack() as stack:
        for each in crowd(served.port, addresses):
            stack.enter_context(each)
        until(lambda: len(served.server._threads) == len(addresses))
        until(lambda: served.began == ["read"] * len(addresses))
        client = served.client(7)
        with client.call(PUSH) as call:
            until(lambda: len(served.began) == len(addresses) + 1)
            # Once the lease is shown no newcomer takes the place.
            for each in crowd(served.port, 3 * addresses):
                stack.enter_context(each)
            until(lambda: len(served.server._threads) <= BOUNDS.strangers + 1)
            call.send(b"still here")
            call.end()
        assert served.ends.count(None) == 1
        client.drop()


def test_a_stream_gets_through_and_stays_while_strangers_hold_all_that_they_may(serve: Serve) -> None:
    served = serve(CLEAR, opening_seconds=PATIENT, bounds=BOUNDS)

    async def talk() -> bytes:
        async with opened(HERE, served.port, EXCHANGE) as stream:
            await stream.write(b"idle")
            while "idle" not in served.began:
                await asyncio.sleep(0.01)
            crowding.extend(crowd(served.port, [HERE] * 3 * BOUNDS.strangers, EXCHANGE.path))
            await stream.write(b"still here")
            return bytes(await stream.read() or b"")

    crowding = crowd(served.port, [HERE] * BOUNDS.address, EXCHANGE.path)
    try:
        assert asyncio.run(asyncio.wait_for(talk(), DEADLINE)) == b"still here"
        until(lambda: len(served.server._threads) <= BOUNDS.address)
    finally:
        for each in crowding:
            each.close()


def test_a_newcomer_ends_the_oldest_silent_call_of_its_address(serve: Serve) -> None:
    served = serve(CLEAR, opening_seconds=PATIENT, bounds=BOUNDS)
    peers = crowd(served.port, [HERE] * BOUNDS.address)
    until(lambda: len(served.server._threads) == BOUNDS.address)
    other, newcomer = crowd(served.port, ["127.0.0.2", HERE])
    read_to_the_end(peers[0])
    until(lambda: len(served.server._threads) == BOUNDS.address + 1)
    for each in (*peers, other, newcomer):
        each.close()


def test_a_lease_has_so_many_places_and_the_newest_calls_have_them(serve: Serve) -> None:
    served = serve(CLEAR, bounds=BOUNDS)
    clients = [served.client(7) for _ in range(3)]
    with clients[0].call(PUSH) as oldest:
        until(lambda: len(served.began) == 1)
        with clients[1].call(PUSH) as older:
            until(lambda: len(served.began) == 2)
            with clients[2].call(PUSH) as newest:
                with pytest.raises(UnreachableError):
                    oldest.read(DEADLINE)
                for call in (older, newest):
                    call.send(b"x")
                    call.end()
    assert "has given its place" in str(served.errors[0])
    for client in clients:
        client.drop()
