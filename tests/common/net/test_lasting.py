"""common.net.lasting: what ends the library's server ends neither the port nor calls under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import hpack
import pytest

from common.credentials import NOBODY, Credentials
from common.errors import LayerwiseError, UnreachableError
from common.net.addresses import split_address
from common.net.control import ControlServer, async_call, async_channel, async_stream
from common.net.data.messages import call_headers
from common.net.http2 import frames
from common.net.http2.frames import Kind
from common.wire.messages import DescribeReply, DescribeRequest
from common.wire.methods import DESCRIBE, EXCHANGE

TIMES = 3
REPLY = DescribeReply("a configuration")


async def _say(address: str, change: tuple[bytes, bytes], shown: Credentials = NOBODY) -> bytes:
    """Call DESCRIBE with other bytes in its headers; returns what comes back until the port is through."""
    headers = [
        (name.encode(), value.encode().replace(*change)) for name, value in call_headers(DESCRIBE, shown)
    ]
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*each) for each in headers], huffman=False)
    reader, writer = await asyncio.open_connection(*split_address(address))
    writer.write(frames.PREFACE + frames.settings({}))
    writer.write(frames.frame(Kind.HEADERS, frames.END_HEADERS, 1, block))
    writer.write(frames.frame(Kind.DATA, frames.END_STREAM, 1, bytes(5)))
    heard = b""
    try:
        async with asyncio.timeout(1.0):
            while some := await reader.read(1 << 16):
                heard += some
    except TimeoutError:
        pass
    writer.close()
    return heard


async def _describe(_: DescribeRequest) -> DescribeReply:
    return REPLY


async def _echo(messages: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    async for each in messages:
        yield [each]


async def _echoed(stream: Any, message: bytes) -> None:
    await stream.write(message)
    assert await stream.read() == message


async def _described(address: str) -> DescribeReply:
    """Describe on a new connection; the port may be closed for a moment."""
    async with asyncio.timeout(20.0):
        while True:
            peer = async_channel(address)
            try:
                return await async_call(peer, DESCRIBE, DescribeRequest())
            except UnreachableError:
                await asyncio.sleep(0.01)
            finally:
                await peer.close()


def test_a_method_whose_name_is_no_text_ends_neither_the_port_nor_a_call_under_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed: list[LayerwiseError] = []

    async def run() -> None:
        server = ControlServer(failed.append)
        server.add(DESCRIBE, _describe)
        server.add(EXCHANGE, _echo)
        address = await server.start("127.0.0.1:0")
        old = async_channel(address)
        stream = async_stream(old, EXCHANGE)
        # A call that waits for the server as it ends is not under way.
        await _echoed(stream, b"before")
        for _ in range(TIMES):
            await _say(address, (b"Describe", b"De\xdascribe"))
            assert await _described(address) == REPLY
            await _echoed(stream, b"after")
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF
        await old.close()
        await server.stop(0)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    (told,) = caplog.records
    assert "another has its place" in told.getMessage()
    assert not told.exc_info
    assert [error.status for error in failed] == ["INVALID_ARGUMENT"] * TIMES


def test_a_stop_ends_the_calls_of_a_server_that_has_ended_before() -> None:
    async def run() -> None:
        server = ControlServer()
        server.add(DESCRIBE, _describe)
        server.add(EXCHANGE, _echo)
        address = await server.start("127.0.0.1:0")
        peer = async_channel(address)
        stream = async_stream(peer, EXCHANGE)
        await _echoed(stream, b"before")
        await _say(address, (b"Describe", b"De\xdascribe"))
        assert await _described(address) == REPLY
        async with asyncio.timeout(20.0):
            await server.stop(0)
        with pytest.raises(grpc.RpcError):
            await stream.read()
        await peer.close()

    asyncio.run(run())


def test_a_secret_that_is_no_text_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    secret = "0123456789abcdef" * 2

    async def run() -> bytes:
        server = ControlServer()
        server.add(DESCRIBE, _describe)
        heard = await _say(
            await server.start("127.0.0.1:0"), (b"abcdef", b"abc\xffdef"), Credentials(1, secret)
        )
        await server.stop(0)
        return heard

    with caplog.at_level(logging.INFO):
        assert asyncio.run(run())
    assert "0123456789abc" not in caplog.text
