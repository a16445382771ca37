"""common.net.control: what becomes of errors that grpc makes itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from common.errors import UnreachableError
from common.net.control import ControlServer, async_channel, async_stream, error_of
from common.wire.methods import EXCHANGE

STREAMS, WRITES = 20, 500


async def _ends_at_once(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for _ in requests:
        return
        yield b""


async def _written_to(address: str) -> list[type[Exception]]:
    """What each of some streams ends with whose peer ends it while it is written to."""
    channel = async_channel(address)
    ends: list[type[Exception]] = []
    for _ in range(STREAMS):
        call = async_stream(channel, EXCHANGE)
        try:
            for _ in range(WRITES):
                await call.write(b"")
        except grpc.RpcError as error:
            ends.append(type(error_of(error, EXCHANGE)))
        except asyncio.InvalidStateError:
            pass
        call.cancel()
    await channel.close()
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
