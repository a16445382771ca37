"""common.net.data.pairs: an outbox is bounded, closes for good, and keeps the newest message of a slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from common.errors import FencedError, MalformedError, StalledError, UnreachableError
from common.net.data.pairs import Outbox, answers, read_hello
from common.net.data.streams import Parts
from common.shards.pushes import Buffer
from common.wire.messages import BoundaryKind, BoundaryMessage
from common.wire.payloads import encode_boundary


def test_a_message_waits_until_the_stream_is_closed() -> None:
    async def use() -> list[Parts | None]:
        outbox = Outbox(10, slots=2)
        getting = asyncio.ensure_future(outbox.get())
        await asyncio.sleep(0)
        for batch in range(5):
            outbox.put((bytes([batch]),), batch)
        found = [await getting, await outbox.get()]
        outbox.put((b"end",))
        found.append(await outbox.get())
        outbox.put((b"six",), 6)
        outbox.close()
        return [*found, await outbox.get(), await outbox.get()]

    assert asyncio.run(use()) == [(b"\3",), (b"\4",), (b"end",), None, None]


def test_an_outbox_that_is_not_read_holds_its_capacity_and_then_closes() -> None:
    outbox = Outbox(3)
    assert [outbox.put((b"",), batch) for batch in range(5)] == [True] * 3 + [False] * 2
    assert isinstance(outbox.error, UnreachableError)
    assert len(outbox) == 0


def test_the_first_reason_of_a_close_is_the_one_that_counts() -> None:
    outbox = Outbox(3)
    outbox.close(FencedError("fenced"))
    outbox.close(UnreachableError("later"))
    assert isinstance(outbox.error, FencedError)


def test_answers_end_with_the_reason_of_the_close_and_end_the_reading() -> None:
    ends: list[str] = []

    async def read() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ends.append("over")

    async def use() -> list[Parts]:
        outbox, found = Outbox(3), []
        outbox.put((b"one",))
        with pytest.raises(FencedError):  # noqa: PT012 - what came before the error counts, too
            async for parts in answers(outbox, read()):
                found.append(parts)
                await asyncio.sleep(0)
                outbox.close(FencedError("fenced"))
        return found

    assert asyncio.run(use()) == [(b"one",)]
    assert ends == ["over"]


async def _sent(*messages: bytes) -> AsyncIterator[Buffer]:
    for message in messages:
        yield message


async def _silent() -> AsyncIterator[Buffer]:
    await asyncio.get_running_loop().create_future()
    yield b""


def test_a_stream_begins_with_a_hello_in_time() -> None:
    hello = BoundaryMessage(BoundaryKind.PAIR, 2, 0, incarnation=1, run="run")
    assert asyncio.run(read_hello(_sent(encode_boundary(hello)))).run == "run"
    for first in (_sent(), _sent(b"\xff"), _sent(encode_boundary(BoundaryMessage(BoundaryKind.END, 2)))):
        with pytest.raises(MalformedError):
            asyncio.run(read_hello(first))
    with pytest.raises(StalledError):
        asyncio.run(read_hello(_silent(), 0.01))
