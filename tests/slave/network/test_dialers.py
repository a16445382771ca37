"""slave.network.dialers: pauses between calls of a neighbour through the master."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest

from common.credentials import NOBODY
from common.errors import FencedError, RefusedError, UnreachableError
from common.net.backoff import Backoff
from common.wire.messages import Peer
from slave.network import dialers
from slave.network.dialers import MasterDialer, NeighbourDialer
from slave.network.neighbours import Neighbours

ABOVE, BELOW = (2, 0), (1, 0)
PATIENCE = 10.0


def peer(incarnation: int) -> Peer:
    return Peer(*ABOVE, incarnation, "192.0.2.7:4711")


class Time:
    """Clock that sleeping moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Sleep without waiting."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr("slave.network.dialers.asyncio.sleep", clock.sleep)
    return clock


@pytest.fixture
def dialer(time: Time) -> MasterDialer:
    """Dialer without jitter."""

    async def locate() -> tuple[str, int]:
        return "master", 1

    def backoff() -> Backoff:
        return Backoff(lambda: time.now, lambda: 0.5, first=0.1, longest=1.6, patience=PATIENCE)

    return MasterDialer([ABOVE, BELOW], locate, backoff, NOBODY)


AWAY = UnreachableError("no answer")


def pause(dialer: MasterDialer, time: Time, times: int, error: UnreachableError | None = AWAY) -> list[float]:
    """Pause some times for the neighbour above; the seconds of each."""
    time.slept.clear()
    for _ in range(times):
        asyncio.run(dialer.pause(ABOVE, error))
    return [round(seconds, 3) for seconds in time.slept]


@pytest.mark.parametrize("error", [AWAY, None])
def test_pauses_double_up_to_the_longest(
    dialer: MasterDialer, time: Time, error: UnreachableError | None
) -> None:
    assert pause(dialer, time, 7, error) == [0.1, 0.2, 0.4, 0.8, 1.6, 1.6, 1.6]


def test_the_pauses_for_one_neighbour_leave_the_others_alone(dialer: MasterDialer, time: Time) -> None:
    pause(dialer, time, 5)
    time.slept.clear()
    asyncio.run(dialer.pause(BELOW, AWAY))
    assert time.slept == [pytest.approx(0.1)]


def test_an_open_pair_begins_the_pauses_anew_and_an_answer_the_patience_alone(
    dialer: MasterDialer, time: Time
) -> None:
    pause(dialer, time, 5)
    dialer.reached(ABOVE)
    assert pause(dialer, time, 1) == [1.6]
    dialer.met(ABOVE)
    assert pause(dialer, time, 2) == [0.1, 0.2]


def test_a_master_that_is_away_for_longer_than_the_patience_ends_the_lease(
    dialer: MasterDialer, time: Time
) -> None:
    with pytest.raises(UnreachableError, match="no answer"):
        pause(dialer, time, 100)
    assert PATIENCE < time.now < PATIENCE + 2 * 1.6


def test_a_master_that_answers_now_and_then_is_called_for_ever(dialer: MasterDialer, time: Time) -> None:
    for _ in range(20):
        pause(dialer, time, 5)
        dialer.reached(ABOVE)
    assert time.now > 5 * PATIENCE


def test_a_lease_that_has_passed_on_is_not_called_for_again(dialer: MasterDialer, time: Time) -> None:
    with pytest.raises(FencedError):
        asyncio.run(dialer.pause(ABOVE, FencedError("incarnation 7 came")))
    assert time.slept == []


# --- a neighbour out of reach, in `basic`

SILENT = UnreachableError("192.0.2.7:4711: does not answer")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every silence counts at once."""
    monkeypatch.setattr(dialers, "UNTOLD_SECONDS", 0.0)


async def silence(dialer: NeighbourDialer, named: Neighbours, holder: Peer) -> None:
    """Have the master name a holder that is called in vain."""
    named.learn(named.version + 1, [holder])
    assert await dialer.locate(ABOVE) == ("192.0.2.7", 4711)
    # The wait for news ends: the master names the same holder again.
    named.learn(named.version + 1, [holder])
    await dialer.pause(ABOVE, SILENT)


@pytest.mark.usefixtures("impatient")
def test_a_neighbour_with_a_lease_that_is_never_reached_is_told_of_once_and_then_ends_the_slave(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(patience: float, times: int) -> None:
        named = Neighbours(lambda: None)
        dialer = NeighbourDialer([ABOVE], named, patience=patience)
        for _ in range(times):
            await silence(dialer, named, peer(5))

    with caplog.at_level(logging.WARNING, "layerwise.slave"):
        asyncio.run(play(math.inf, 4))
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "layer 2 replica 0 at 192.0.2.7:4711: does not answer"
    ]
    with pytest.raises(RefusedError, match=r"With cluster\.profile = light slaves dial the master alone"):
        asyncio.run(play(0.0, 2))


@pytest.mark.usefixtures("impatient")
def test_a_dead_neighbour_without_a_successor_is_waited_for() -> None:
    """The master makes no new version where a seat becomes vacant: a silent neighbour is asked about."""

    async def play() -> None:
        asked = 0

        def ask() -> None:
            nonlocal asked
            asked += 1

        named = Neighbours(ask)
        dialer = NeighbourDialer([ABOVE], named, patience=0.0)
        await silence(dialer, named, peer(5))
        assert named.version == 0
        assert asked
        named.learn(7, [])
        for _ in range(3):
            assert await dialer.locate(ABOVE) is None
            await dialer.pause(ABOVE, None)
        # A successor has the time that every neighbour has.
        await silence(dialer, named, peer(6))

    asyncio.run(play())


@pytest.mark.usefixtures("impatient")
def test_a_neighbour_that_was_reached_once_is_waited_for_and_its_successor_counts_anew() -> None:
    async def play() -> None:
        named = Neighbours(lambda: None)
        dialer = NeighbourDialer([ABOVE], named, patience=0.0)
        named.learn(1, [peer(5)])
        await dialer.locate(ABOVE)
        dialer.reached(ABOVE)
        for _ in range(3):
            await silence(dialer, named, peer(5))
        await silence(dialer, named, peer(6))
        with pytest.raises(RefusedError):
            await silence(dialer, named, peer(6))

    asyncio.run(play())


@pytest.mark.usefixtures("impatient")
def test_without_the_masters_word_a_silent_neighbour_may_be_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialers, "AWAY_SECONDS", -1.0)

    async def play() -> None:
        named = Neighbours(lambda: None)
        dialer = NeighbourDialer([ABOVE], named, patience=0.0)
        await silence(dialer, named, peer(5))

    asyncio.run(play())
