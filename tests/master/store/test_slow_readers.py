"""Readers over the network that are slower than pushes: they share a copy, and nobody waits for them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from common.errors import UnreachableError
from master.store import shard as shards
from master.store.shard import MOST_COPIES, Reading
from master.store.store import Store
from tests.master.pushes import update
from tests.master.store.test_store import contents, created


@pytest.fixture(autouse=True)
def _nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a push that waits for a reader over the network fail."""
    monkeypatch.setattr(shards, "PROMPT_SECONDS", 0.0)
    monkeypatch.setattr(shards, "READER_SECONDS", 1e6)


def reader(store: Store) -> Reading:
    reading = store.read("1/weights")
    reading.movable = True
    return reading


def taken(reading: Reading) -> list[float]:
    with reading.piece(0, 8) as (piece, _):
        return [float(number) for number in np.frombuffer(piece, np.float32)]


def push(store: Store, sequence: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(store.apply, *update((1.0, 1.0), sequence)).result(30).applied


def test_slow_readers_of_a_version_share_a_copy_while_pushes_go_on() -> None:
    store = created()
    first, second = reader(store), reader(store)
    for sequence in range(1, 8):
        push(store, sequence)
        assert taken(first) == taken(second) == [0.0, 0.0]
    assert np.shares_memory(np.frombuffer(first.buffer, np.uint8), np.frombuffer(second.buffer, np.uint8))
    assert contents(store) == (7, [7.0, 7.0])


def test_a_piece_that_is_held_is_not_overwritten_and_may_be_given_back_early() -> None:
    store = created()
    reading = reader(store)
    push(store, 1)
    with ThreadPoolExecutor(1) as pool, reading.piece(0, 8) as (piece, let_go):
        pushing = pool.submit(store.apply, *update((1.0, 1.0), 2))
        assert np.frombuffer(piece, np.float32).tolist() == [0.0, 0.0]
        assert not pushing.done()
        let_go()
        assert pushing.result(30).version == 2
    assert taken(reading) == [0.0, 0.0]


def test_copies_are_bounded_and_the_reader_that_takes_least_is_ended() -> None:
    store = created()
    stuck, honest = reader(store), None
    others: list[Reading] = []
    for sequence in range(1, 3 * MOST_COPIES + 1):
        push(store, sequence)
        if honest is None:
            honest = reader(store)
        else:
            others.append(reader(store))
            assert taken(honest) == [1.0, 1.0]
        assert len(store._shards["1/weights"]._copies) <= MOST_COPIES
    with pytest.raises(UnreachableError, match="takes too little; pull again"):
        taken(stuck)
    assert not len(stuck.buffer)
    assert sum(other.revoked for other in others) >= MOST_COPIES


def test_a_copy_goes_with_its_last_reader() -> None:
    store = created()
    reading = reader(store)
    push(store, 1)
    push(store, 2)
    assert len(store._shards["1/weights"]._copies) == 1
    reading.release()
    assert not len(reading.buffer)
    again = reader(store)
    push(store, 3)
    push(store, 4)
    assert store._shards["1/weights"]._copies == [[again]]
