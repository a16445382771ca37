"""slave.network.dialers: pauses between calls of a neighbour through the master."""

from __future__ import annotations

import asyncio

import pytest

from common.credentials import NOBODY
from common.errors import FencedError, UnreachableError
from common.net.backoff import Backoff
from slave.network.dialers import MasterDialer

ABOVE, BELOW = (2, 0), (1, 0)
PATIENCE = 10.0


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
