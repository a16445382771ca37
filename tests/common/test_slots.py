"""common.slots: what may be lost, and what is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.slots import Slots

# A batch, or None for what has no slot.
PUTS = st.lists(st.none() | st.integers(0, 40), max_size=60)


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
