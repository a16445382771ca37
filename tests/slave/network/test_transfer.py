"""slave.network.transfer: memory of fetches and of pulls."""

from __future__ import annotations

import gc
import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.shards.pushes import Header, Operation
from common.shards.table import lay_out
from slave.network.transfer import Fetcher
from slave.training.worker import Fetched
from tests.master.pushes import SHARD, creation, update
from tests.master.served import DEADLINE, Served, served

COUNT = 1 << 19  # two pieces
FETCHES = 100


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def inbox() -> queue.SimpleQueue[object]:
    return queue.SimpleQueue()


@pytest.fixture
def fetcher(master: Served, inbox: queue.SimpleQueue[object]) -> Iterator[Fetcher]:
    incarnation = master.join("a").incarnation
    store = master.master.store
    store.create(*creation(np.zeros(COUNT), incarnation=incarnation))
    fetcher = Fetcher(master.address, master.shown(incarnation), inbox.put, lambda *_: None)
    fetcher.start()
    yield fetcher
    fetcher.close()


def taken(inbox: queue.SimpleQueue[object]) -> np.ndarray:
    """Wait for a version, and return its numbers in place."""
    found = inbox.get(timeout=DEADLINE)
    assert isinstance(found, Fetched)
    assert found.header is not None
    return np.frombuffer(found.buffer, np.float32)


def test_a_fetch_overwrites_the_memory_of_the_last_and_a_pull_has_memory_of_its_own(
    master: Served, inbox: queue.SimpleQueue[object], fetcher: Fetcher
) -> None:
    store = master.master.store
    fetcher.fetch(SHARD)
    first = taken(inbox)
    assert (first == 0).all()
    store.apply(*update(np.full(COUNT, 2.0), incarnation=1))
    fetcher.pull(SHARD, inbox.put)
    pulled = taken(inbox)
    assert (first == 0).all()
    store.apply(*update(np.full(COUNT, 3.0), sequence=2, incarnation=1))
    fetcher.fetch(SHARD)
    second = taken(inbox)
    assert np.shares_memory(first, second)
    assert (second == 5).all()
    assert (pulled == 2).all()


def test_a_fetch_leaves_out_the_frozen_tensors_and_a_pull_brings_them(
    master: Served, inbox: queue.SimpleQueue[object]
) -> None:
    table = lay_out([("w", "float32", (4,), "parameter"), ("f", "float32", (6,), "frozen")])
    lease = master.join("a")
    created = Header(SHARD, Operation.CREATE, incarnation=lease.incarnation, table=table)
    master.master.store.create(created, [(0, np.arange(10, dtype=np.float32).data.cast("B"))])
    fetcher = Fetcher(master.address, master.shown(lease.incarnation), inbox.put, lambda *_: None)
    fetcher.start()
    try:
        fetcher.fetch(SHARD)
        assert taken(inbox).tolist() == [0, 1, 2, 3]
        fetcher.pull(SHARD, inbox.put)
        assert taken(inbox).tolist() == list(range(10))
    finally:
        fetcher.close()


def count_views() -> int:
    """Count the views of memory in this process."""
    gc.collect()
    return sum(type(each) is memoryview for each in gc.get_objects())


def test_views_of_memory_do_not_grow_with_the_number_of_fetches(
    inbox: queue.SimpleQueue[object], fetcher: Fetcher
) -> None:
    fetcher.fetch(SHARD)
    taken(inbox)
    before = count_views()
    for _ in range(FETCHES):
        fetcher.fetch(SHARD)
        taken(inbox)
    # Both ends hold a few views during a call.
    assert count_views() - before < FETCHES // 2
