"""common.net.http2.pace: a rate over a window, by a clock of its own."""

from __future__ import annotations

import pytest

from common.errors import StalledError
from common.net.http2.pace import Pace


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def send(pace: Pace, clock: Clock, seconds: int, rate: int) -> None:
    """Have a peer send at a rate, a look each second."""
    for _ in range(seconds):
        clock.now += 1.0
        pace.take(rate)


def test_a_message_of_any_length_may_come_at_the_floor() -> None:
    clock = Clock()
    pace = Pace(30.0, 1000, clock)
    pace.take(1)
    send(pace, clock, 3600, 1000)
    assert pace.rate() == pytest.approx(1000)


def test_a_message_below_the_floor_ends_after_the_window_and_not_before() -> None:
    clock = Clock()
    pace = Pace(30.0, 1000, clock)
    pace.take(1)
    send(pace, clock, 29, 990)
    with pytest.raises(StalledError, match="stood still"):
        send(pace, clock, 7, 990)


def test_a_fast_beginning_does_not_pay_for_a_standstill() -> None:
    clock = Clock()
    pace = Pace(30.0, 1000, clock)
    send(pace, clock, 30, 10**9)
    with pytest.raises(StalledError):
        send(pace, clock, 40, 0)


def test_a_message_that_begins_has_a_window_of_its_own() -> None:
    clock = Clock()
    pace = Pace(30.0, 1000, clock)
    pace.take(1)
    clock.now += 1000.0
    pace.restart()
    send(pace, clock, 29, 0)
