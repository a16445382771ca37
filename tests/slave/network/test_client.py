"""slave.network.client: heartbeats over real sockets."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from common.credentials import Credentials
from common.errors import FencedError, UnreachableError
from common.net.backoff import Backoff
from common.net.control import ControlServer, async_channel
from common.wire.curriculum import Curriculum, Score
from common.wire.messages import HeartbeatReply, HeartbeatRequest, Telemetry
from common.wire.methods import HEARTBEAT
from common.wire.stages import Promise
from slave.network import client
from slave.network.client import Heart

BEATS, SECONDS, ANSWER_SECONDS = 6, 0.4, 0.3


def patient() -> Backoff:
    return Backoff(time.monotonic, random.random, patience=60.0)


def beat(
    answer: Callable[[HeartbeatRequest], Awaitable[HeartbeatReply]],
    build: Callable[[Any], Heart],
    over: Callable[[], bool],
) -> None:
    """Let a heart beat at a master until it is over."""

    async def run() -> None:
        server = ControlServer()
        server.add(HEARTBEAT, answer)
        channel = async_channel(await server.start("127.0.0.1:0"))
        beating = asyncio.ensure_future(build(channel).run())
        async with asyncio.timeout(30):
            while not over():
                await asyncio.sleep(0.02)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await channel.close()
        await server.stop(0)

    asyncio.run(run())


def test_the_time_that_an_answer_takes_is_not_added_to_a_slaves_silence() -> None:
    came: list[float] = []

    async def heartbeat(request: HeartbeatRequest) -> HeartbeatReply:
        came.append(time.monotonic())
        await asyncio.sleep(ANSWER_SECONDS)
        return HeartbeatReply()

    def build(channel: Any) -> Heart:
        return Heart(channel, Credentials(1), SECONDS, lambda: Telemetry(steps=1), print, patient())

    beat(heartbeat, build, lambda: len(came) >= BEATS)
    shortest = min(b - a for a, b in pairwise(came))
    assert 0.9 * SECONDS < shortest < SECONDS + ANSWER_SECONDS - 0.1


async def beat_over(
    main: Callable[[HeartbeatRequest], Awaitable[HeartbeatReply]],
    spare: Callable[[HeartbeatRequest], Awaitable[HeartbeatReply]],
    enough: Callable[[], bool],
) -> None:
    """Beat with a spare connection, until enough has come or the heart has ended; raises its error."""
    servers = [ControlServer() for _ in range(2)]
    channels = []
    for server, answer in zip(servers, (main, spare), strict=True):
        server.add(HEARTBEAT, answer)
        channels.append(async_channel(await server.start("127.0.0.1:0")))
    heart = Heart(
        channels[0], Credentials(1), 0.05, lambda: Telemetry(steps=1), print, patient(), spare=channels[1]
    )
    beating = asyncio.ensure_future(heart.run())
    try:
        async with asyncio.timeout(30):
            while not (enough() or beating.done()):
                await asyncio.sleep(0.02)
        if beating.done():
            await beating
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        for channel in channels:
            await channel.close()
        for server in servers:
            await server.stop(0)


async def lose(request: HeartbeatRequest) -> HeartbeatReply:
    """Take a heartbeat that nobody answers."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError(request)


def test_a_heartbeat_that_vanishes_is_sent_over_another_connection_which_then_carries_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "DOUBT_SECONDS", 0.2)
    lost: list[int] = []
    came: list[int] = []

    async def note(request: HeartbeatRequest) -> HeartbeatReply:
        lost.append(request.beat)
        return await lose(request)

    async def heartbeat(request: HeartbeatRequest) -> HeartbeatReply:
        came.append(request.beat)
        return HeartbeatReply()

    asyncio.run(beat_over(note, heartbeat, lambda: len(came) >= 3))
    assert lost == [1]
    assert came[:3] == [1, 2, 3]


def test_a_master_that_refuses_over_the_other_connection_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "DOUBT_SECONDS", 0.2)

    async def fence(request: HeartbeatRequest) -> HeartbeatReply:
        raise FencedError(f"beat {request.beat} came too late")

    with pytest.raises(FencedError, match="beat 1"):
        asyncio.run(beat_over(lose, fence, lambda: False))


def test_the_pause_after_a_failed_heartbeat_is_no_longer_than_a_heartbeat() -> None:
    came: list[float] = []

    async def refuse(request: HeartbeatRequest) -> HeartbeatReply:
        came.append(time.monotonic())
        raise UnreachableError("restarting")

    def build(channel: Any) -> Heart:
        # Without a bound the third attempt would come in an hour.
        backoff = Backoff(time.monotonic, lambda: 0.5, first=0.1, longest=3600.0, patience=60.0)
        for _ in range(15):
            backoff.next_delay()
        return Heart(channel, Credentials(1), 0.2, lambda: Telemetry(steps=1), print, backoff)

    beat(refuse, build, lambda: len(came) >= 4)
    assert len(came) >= 4


def test_the_orders_of_a_change_are_told_until_they_end() -> None:
    """Told once, one that came while a slave created its shards was forgotten, and the run stood still."""
    told: list[object] = []
    replies = [HeartbeatReply(), HeartbeatReply(hold=3), HeartbeatReply(hold=3), HeartbeatReply()]

    async def heartbeat(request: HeartbeatRequest) -> HeartbeatReply:
        assert request.promise == Promise(2, 40)
        return replies[min(request.beat, len(replies)) - 1]

    def build(channel: Any) -> Heart:
        # Without an order the beats are an hour apart, and eager before the first step.
        promise = Promise(2, 40)
        return Heart(
            channel, Credentials(1), 3600.0, Telemetry, told.append, patient(), promise=lambda: promise
        )  # fmt: skip

    beat(heartbeat, build, lambda: len(told) > 2)
    assert told == replies[1:]


def test_further_levels_and_what_is_due_meanwhile_wait_for_no_heartbeat() -> None:
    came: list[float] = []
    told: list[object] = []
    hearts: list[Heart] = []

    async def heartbeat(request: HeartbeatRequest) -> HeartbeatReply:
        came.append(time.monotonic())
        assert request.scores == [Score(3, 1.0, 7)]
        if len(came) == 1:
            # The block is through while the answer is under way.
            hearts[0].beat_now()
        return HeartbeatReply(curriculum=Curriculum([0], 400 if len(came) < 3 else 500))

    def telemetry() -> Telemetry:
        return Telemetry(steps=1, next_batch=350 if came else 100)

    def build(channel: Any) -> Heart:
        heart = Heart(
            channel, Credentials(1), 3600.0, telemetry, told.append, patient(), decided=400,
            scores=lambda: [Score(3, 1.0, 7)],
        )  # fmt: skip
        hearts.append(heart)
        return heart

    beat(heartbeat, build, lambda: bool(told))
    assert told == [HeartbeatReply(curriculum=Curriculum([0], 500))]
    assert len(came) == 3
