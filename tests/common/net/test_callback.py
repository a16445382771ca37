"""common.net.callback: a greeter is told from any other program."""

from __future__ import annotations

import asyncio

import pytest

from common.net.callback import Greeter, is_greeted
from common.net.listening import listen_at


def test_a_greeter_is_found_by_its_token_alone() -> None:
    with listen_at("--listen", "127.0.0.1", 0) as listening:
        here = f"127.0.0.1:{listening.getsockname()[1]}"
        with Greeter(listening) as greeter:
            assert asyncio.run(is_greeted(here, greeter.token))
            assert not asyncio.run(is_greeted(here, greeter.token[:-1]))
            assert not asyncio.run(is_greeted(here, "f" * 32))


@pytest.mark.parametrize("hangs_up", [False, True])
def test_the_banner_of_another_program_is_no_greeting(hangs_up: bool) -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        if not hangs_up:
            await reader.read()
        writer.close()

    async def ask() -> bool:
        server = await asyncio.start_server(banner, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await is_greeted(f"127.0.0.1:{port}", "SSH-2.0-", seconds=1.0)

    assert not asyncio.run(ask())
