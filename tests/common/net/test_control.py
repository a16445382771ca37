"""common.net.control: what becomes of errors that grpc makes itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import grpc
import pytest

from common.errors import UnreachableError
from common.net.control import ControlServer, async_channel, async_stream, call_watching, channel, error_of
from common.wire.messages import DescribeRequest
from common.wire.methods import DESCRIBE, EXCHANGE

STREAMS, WRITES = 20, 500


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
