"""slave.network.correspondent: bounds of what a neighbour may queue, and pauses after refused messages."""

from __future__ import annotations

import pytest
import torch

from common.errors import MalformedError, UnreachableError
from common.wire.boundary import Down, Lost, Message, Taken, Up
from slave.network.correspondent import FIRST_SECONDS, LAST_SECONDS, Correspondent
from slave.network.mail import Arrivals, Inbox


class Clock:
    """Monotonic seconds, by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def is_refused(known: Correspondent) -> bool:
    try:
        known.check_welcome()
    except UnreachableError:
        return True
    return False


def correspondent(window: int | None = 2, capacity: int = 10, clock: Clock | None = None) -> Correspondent:
    return Correspondent((1, 0), 7, Arrivals(Inbox(), None, capacity), window, clock or Clock())


def up(batch: int) -> Up:
    return Up(batch, torch.zeros(1))


def test_a_neighbour_beyond_its_window_is_refused() -> None:
    known = correspondent()
    assert known.receive(up(0))
    assert known.receive(up(1))
    # Sent again over a new stream.
    assert known.receive(up(1))
    with pytest.raises(MalformedError, match="incarnation 7 has sent 3 unanswered batches; 2 are allowed"):
        known.receive(up(2))


@pytest.mark.parametrize("answer", [Down(0, torch.zeros(1)), Taken(0), Lost(0)])
def test_an_answer_makes_room(answer: Message) -> None:
    known = correspondent()
    for batch in (0, 1):
        known.receive(up(batch))
    known.note_sent(answer)
    assert known.receive(up(2))


def test_what_waits_is_bounded_over_all_streams() -> None:
    known = correspondent(window=None, capacity=3)
    assert [known.receive(up(batch)) for batch in range(5)] == [True, True, True, False, False]


def test_each_refused_message_doubles_the_pause_up_to_the_longest() -> None:
    clock = Clock()
    known, pauses = correspondent(clock=clock), []
    known.check_welcome()
    for _ in range(10):
        known.refuse("a tensor had NaN")
        began = clock.now
        with pytest.raises(UnreachableError, match=r"layer 1 replica 0 .* a tensor had NaN"):
            known.check_welcome()
        while is_refused(known):
            clock.now += FIRST_SECONDS / 2
        pauses.append(clock.now - began)
    assert pauses[:3] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert pauses[-1] == LAST_SECONDS
