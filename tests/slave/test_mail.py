"""slave.mail: what waits between threads and streams, and what is dropped of it."""

from __future__ import annotations

import asyncio
import queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import BoundaryKind
from slave.decoupling import Message
from slave.mail import Arrivals, Inbox, Outgoing, Slots

# A batch, or None for what has no slot.
PUTS = st.lists(st.none() | st.integers(0, 40), max_size=60)
CONTROL = (BoundaryKind.LOST, BoundaryKind.END, BoundaryKind.ENDED, BoundaryKind.PEER)


def emptied(slots: Slots[tuple[int, int | None]]) -> list[tuple[int, int | None]]:
    return [slots.get() for _ in range(len(slots))]


@given(PUTS)
def test_without_slots_nothing_is_dropped_and_the_order_is_kept(puts: list[int | None]) -> None:
    slots: Slots[tuple[int, int | None]] = Slots()
    for each in enumerate(puts):
        slots.put(each, each[1])
    assert emptied(slots) == list(enumerate(puts))


@given(st.integers(1, 8), PUTS)
def test_of_each_slot_the_newest_batch_waits_and_what_has_no_slot_stays(
    n: int, puts: list[int | None]
) -> None:
    slots: Slots[tuple[int, int | None]] = Slots(n)
    for number, batch in enumerate(puts):
        slots.put((number, batch), batch)
        assert len(slots) <= n + puts.count(None)
    left = emptied(slots)
    assert [number for number, _ in left] == sorted(number for number, _ in left)
    assert [number for number, batch in left if batch is None] == [
        number for number, batch in enumerate(puts) if batch is None
    ]
    newest: dict[int, int] = {}
    for batch in puts:
        if batch is not None:
            newest[batch % n] = max(batch, newest.get(batch % n, 0))
    assert sorted(batch for _, batch in left if batch is not None) == sorted(newest.values())


@given(st.integers(1, 8), st.lists(st.integers(0, 5), max_size=40))
def test_batches_that_are_put_in_order_come_in_order(n: int, steps: list[int]) -> None:
    slots: Slots[int] = Slots(n)
    batch = 0
    for step in steps:
        batch += step
        slots.put(batch, batch)
    left = [slots.get() for _ in range(len(slots))]
    assert left == sorted(left)


def test_there_is_nothing_to_get_where_nothing_waits() -> None:
    with pytest.raises(KeyError):
        Slots[int](3).get()


def activation(batch: int) -> Message:
    return Message(BoundaryKind.ACTIVATION, 2, batch)


def emptied_inbox(inbox: Inbox) -> list[object]:
    found = []
    while not inbox.empty():
        found.append(inbox.get(block=False))
    return found


def test_the_inbox_gives_messages_and_events_in_the_order_in_which_they_came() -> None:
    inbox = Inbox()
    one, other = Arrivals(inbox, None), Arrivals(inbox, None)
    assert one.put(activation(0))
    inbox.put("event")
    assert other.put(activation(7))
    assert one.put(activation(1))
    assert [getattr(each, "batch", each) for each in emptied_inbox(inbox)] == [0, "event", 7, 1]
    with pytest.raises(queue.Empty):
        inbox.get(block=False)


@pytest.mark.parametrize("kind", CONTROL)
def test_a_training_thread_that_does_not_take_finds_the_newest_and_every_word(kind: BoundaryKind) -> None:
    inbox = Inbox()
    arrivals = Arrivals(inbox, 3)
    for batch in range(100):
        assert arrivals.put(activation(batch))
    assert arrivals.put(Message(kind, 2, 50))
    found = emptied_inbox(inbox)
    assert [getattr(each, "batch", None) for each in found] == [97, 98, 99, 50]


def test_who_does_not_keep_up_is_told_so_and_what_waits_is_bounded() -> None:
    inbox = Inbox()
    arrivals = Arrivals(inbox, None, capacity=4)
    assert [arrivals.put(activation(batch)) for batch in range(6)] == [True] * 4 + [False] * 2
    inbox.get()
    assert arrivals.put(activation(6))
    assert len(emptied_inbox(inbox)) == 4


def test_what_is_to_be_sent_waits_until_the_stream_is_closed() -> None:
    async def use() -> list[bytes | None]:
        outgoing = Outgoing(2, capacity=10)
        getting = asyncio.ensure_future(outgoing.get())
        await asyncio.sleep(0)
        for batch in range(5):
            outgoing.put(activation(batch), bytes([batch]))
        found = [await getting, await outgoing.get()]
        outgoing.put(Message(BoundaryKind.END, 2, 5), b"end")
        found.append(await outgoing.get())
        outgoing.put(activation(6), b"six")
        outgoing.close()
        return [*found, await outgoing.get(), await outgoing.get()]

    assert asyncio.run(use()) == [b"\3", b"\4", b"end", None, None]


def test_a_stream_that_is_not_read_holds_no_more_than_its_capacity() -> None:
    outgoing = Outgoing(None, capacity=3)
    assert [outgoing.put(activation(batch), b"") for batch in range(5)] == [True] * 3 + [False] * 2
