"""slave.network.mail: messages between threads and streams, waiting, replaced and dropped."""

from __future__ import annotations

import queue

import pytest
import torch

from common.wire.boundary import End, Ended, Lost, Message, Ready, Up
from slave.network.mail import Arrivals, Inbox

CONTROL = (Lost, End, Ended, Ready)


def activation(batch: int) -> Message:
    return Up(batch, torch.zeros(0), layer=2)


def emptied_inbox(inbox: Inbox) -> list[object]:
    found = []
    while not inbox.empty():
        found.append(inbox.get(block=False))
    return found


def test_the_inbox_gives_messages_and_events_in_the_order_in_which_they_came() -> None:
    inbox = Inbox()
    one, other = Arrivals(inbox, None, 9), Arrivals(inbox, None, 9)
    assert one.put(activation(0))
    inbox.put("event")
    assert other.put(activation(7))
    assert one.put(activation(1))
    assert [getattr(each, "batch", each) for each in emptied_inbox(inbox)] == [0, "event", 7, 1]
    with pytest.raises(queue.Empty):
        inbox.get(block=False)


@pytest.mark.parametrize("kind", CONTROL)
def test_a_training_thread_that_does_not_take_finds_the_newest_and_every_word(kind: type[Message]) -> None:
    inbox = Inbox()
    arrivals = Arrivals(inbox, 3, 9)
    for batch in range(100):
        assert arrivals.put(activation(batch))
    assert arrivals.put(kind(50, layer=2))
    found = emptied_inbox(inbox)
    assert [getattr(each, "batch", None) for each in found] == [97, 98, 99, 50]


def test_who_does_not_keep_up_is_told_so_and_what_waits_is_bounded() -> None:
    inbox = Inbox()
    arrivals = Arrivals(inbox, None, capacity=4)
    assert [arrivals.put(activation(batch)) for batch in range(6)] == [True] * 4 + [False] * 2
    inbox.get()
    assert arrivals.put(activation(6))
    assert len(emptied_inbox(inbox)) == 4
