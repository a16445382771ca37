"""Reading ahead: values, order, bounds, errors, the end of the thread."""

from __future__ import annotations

import threading

import pytest

from common.data.prefetch import DEPTH, Prefetch


class Reads:
    """A reader that notes batches and threads, and waits in chosen ones until it is let go."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, bool]] = []
        self.begun: dict[int, threading.Event] = {}
        self.free = threading.Event()
        self.free.set()
        self._own = threading.current_thread()

    def __call__(self, batch: int) -> list[int]:
        self.batches.append((batch, threading.current_thread() is self._own))
        self.begun.setdefault(batch, threading.Event()).set()
        if threading.current_thread() is not self._own:
            assert self.free.wait(60)
        return [batch]


def ended(name: str = "prefetch") -> None:
    """Wait for the threads that read ahead."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(60)
            assert not thread.is_alive()


def test_values_are_those_of_the_batches_in_whatever_order_they_are_asked_for() -> None:
    prefetch = Prefetch(Reads())
    for batch in [0, 1, 2, 3, 7, 11, 15, 14, 3, 3, 4, 100, 5]:
        assert prefetch.get(batch) == [batch]
    ended()


def test_batches_are_read_ahead_once_each_at_the_distance_of_the_last_two() -> None:
    reads = Reads()
    prefetch = Prefetch(reads)
    for batch in (4, 7):
        prefetch.get(batch)
    ended()
    assert sorted(reads.batches) == [(4, True), (7, True), (10, False), (13, False)]
    assert prefetch.get(10) == [10]
    ended()
    assert reads.batches[4:] == [(16, False)]


def test_a_batch_that_is_being_read_is_waited_for_and_not_read_twice() -> None:
    reads = Reads()
    reads.free.clear()
    prefetch = Prefetch(reads)
    reads.begun[2] = threading.Event()
    for batch in (0, 1):
        prefetch.get(batch)
    assert reads.begun[2].wait(60)
    threading.Timer(0, reads.free.set).start()
    assert prefetch.get(2) == [2]
    ended()
    assert [batch for batch, _ in reads.batches].count(2) == 1


def test_a_batch_that_the_thread_has_not_begun_is_read_by_the_caller() -> None:
    reads = Reads()
    reads.free.clear()
    prefetch = Prefetch(reads)
    reads.begun[2] = threading.Event()
    for batch in (0, 1):
        prefetch.get(batch)
    assert reads.begun[2].wait(60)
    assert prefetch.get(3) == [3]
    assert (3, True) in reads.batches
    reads.free.set()
    ended()


def test_no_more_than_a_few_batches_wait() -> None:
    reads = Reads()
    prefetch = Prefetch(reads)
    for batch in (0, 1):
        prefetch.get(batch)
    ended()
    assert len(reads.batches) == 2 + DEPTH
    prefetch.get(500)
    ended()
    assert set(prefetch._ahead) == {999, 1498}


@pytest.mark.parametrize("error", [ValueError("torn"), SystemExit(3)])
def test_an_error_comes_to_the_request_for_its_batch(error: BaseException) -> None:
    def read(batch: int) -> int:
        if batch == 3:
            raise error
        return batch

    prefetch = Prefetch(read)
    for batch in (0, 1, 2):
        assert prefetch.get(batch) == batch
    with pytest.raises(type(error)):
        prefetch.get(3)
    assert prefetch.get(4) == 4
    ended()


def test_without_room_for_a_thread_batches_are_read_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reads = Reads()
    prefetch = Prefetch(reads)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert [prefetch.get(batch) for batch in range(5)] == [[batch] for batch in range(5)]
    assert reads.batches == [(batch, True) for batch in range(5)]
