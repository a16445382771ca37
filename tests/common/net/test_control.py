"""common.net.control: what becomes of errors that grpc makes itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import grpc
import pytest

from common.errors import UnreachableError
from common.net import control
from common.net.addresses import split_address
from common.net.control import (
    ControlServer,
    async_channel,
    async_stream,
    call_watching,
    channel,
    error_of,
)
from common.wire.messages import DescribeRequest
from common.wire.methods import DESCRIBE, EXCHANGE
from tests.integration.processes import until

STREAMS, WRITES = 20, 500
MOST, DEADLINE = 6, 20.0


async def _ends_at_once(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for _ in requests:
        return
        yield b""


async def _written_to(address: str) -> list[type[Exception]]:
    """What each of some streams ends with whose peer ends it while it is written to."""
    peer = async_channel(address)
    ends: list[type[Exception]] = []
    for _ in range(STREAMS):
        call = async_stream(peer, EXCHANGE)
        try:
            for _ in range(WRITES):
                await call.write(b"")
        except grpc.RpcError as error:
            ends.append(type(error_of(error, EXCHANGE)))
        except asyncio.InvalidStateError:
            pass
        call.cancel()
    await peer.close()
    return ends


def test_a_write_to_a_stream_that_the_peer_has_just_ended_is_tried_again_and_ends_nobody() -> None:
    async def run() -> list[type[Exception]]:
        server = ControlServer()
        server.add(EXCHANGE, _ends_at_once)
        ends = await _written_to(await server.start("127.0.0.1:0"))
        await server.stop(0)
        return ends

    ends = asyncio.run(run())
    assert ends
    assert set(ends) == {UnreachableError}


def test_a_call_that_waits_at_a_server_as_it_ends_is_tried_again_and_ends_nobody() -> None:
    nothing = grpc.aio.Metadata()
    cancelled = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing, details="CANCELLED")
    assert type(error_of(cancelled, DESCRIBE)) is UnreachableError


def test_a_watched_call_to_a_silent_peer_is_given_up_when_the_watcher_raises() -> None:
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = channel(f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(KeyboardInterrupt):
            call_watching(peer, DESCRIBE, DescribeRequest(), 3600.0, look)
        with pytest.raises(UnreachableError):
            call_watching(peer, DESCRIBE, DescribeRequest(), 0.05, lambda: None)
        peer.close()


# A client's preface and empty settings.
BEGINNING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def _is_taken(port: int, stack: contextlib.ExitStack) -> bool:
    """Connect and begin HTTP/2; whether the server takes part."""
    stream = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
    try:
        stream.sendall(BEGINNING)
        return stream.recv(1) != b""
    except ConnectionError:
        return False


def _crowd(port: int) -> list[bool]:
    """Connect with twice as many as may; who was taken. Later, places are free again."""
    with contextlib.ExitStack() as stack:
        taken = [_is_taken(port, stack) for _ in range(2 * MOST)]
    with contextlib.ExitStack() as stack:
        until(lambda: _is_taken(port, stack), DEADLINE)
    return taken


def test_connections_to_the_control_port_leave_half_of_the_files_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "file_limit", lambda: 2 * MOST)

    async def run() -> list[bool]:
        server = ControlServer()
        port = split_address(await server.start("127.0.0.1:0"))[1]
        taken = await asyncio.to_thread(_crowd, port)
        await server.stop(0)
        return taken

    assert asyncio.run(run()) == [True] * MOST + [False] * MOST


@pytest.mark.parametrize("beginning", [b"", BEGINNING[:10]])
def test_a_connection_that_does_not_begin_ends_in_time(
    beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [(name, 300 if "handshake" in name else value) for name, value in control._SERVER_OPTIONS]
    monkeypatch.setattr(control, "_SERVER_OPTIONS", options)

    def read_to_the_end(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as stream:
            stream.sendall(beginning)
            while stream.recv(100):
                pass

    async def run() -> None:
        server = ControlServer()
        port = split_address(await server.start("127.0.0.1:0"))[1]
        await asyncio.to_thread(read_to_the_end, port)
        await server.stop(0)

    asyncio.run(run())
