"""master.store.store: whole versions in order; pushes once; staleness by definition."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FencedError, MalformedError, NotFoundError
from common.shards.pushes import Header, Operation
from common.shards.table import Table
from master.store import shard as shards
from master.store.optimizers import Bytes
from master.store.shard import BufferPair, Record
from master.store.store import Memory, MemoryPair, Store
from tests.master.pushes import MIXED, PARTLY_FROZEN, creation, update


class Outliving(Memory):
    """Backing that outlives a store, as files do."""

    def __init__(self) -> None:
        self._pairs: dict[str, BufferPair] = {}

    def create(self, name: str, table: Table, nbytes: int) -> BufferPair:
        return self._pairs.setdefault(name, super().create(name, table, nbytes))

    def load(self) -> dict[str, BufferPair]:
        return dict(self._pairs)


def created(numbers: npt.ArrayLike = (0.0, 0.0)) -> Store:
    store = Store(Memory())
    assert store.create(*creation(numbers)).applied
    return store


def contents(store: Store, shard: str = "1/weights") -> tuple[int, list[float]]:
    """A shard's version and numbers."""
    reading = store.read(shard)
    try:
        return reading.header.version, np.frombuffer(reading.buffer, np.float32).tolist()
    finally:
        reading.release()


# --- create -----------------------------------------------------------------------------------------------


def test_the_first_create_wins_and_a_later_one_changes_nothing() -> None:
    store = created((1.0, 2.0))
    again = store.create(*creation((3.0, 4.0), incarnation=2))
    assert not again.applied
    assert contents(store) == (0, [1.0, 2.0])


def test_a_create_after_pushes_is_told_the_present_version() -> None:
    store = created()
    store.apply(*update((1.0, 1.0)))
    assert store.create(*creation((3.0, 4.0))).version == 1
    assert contents(store) == (1, [1.0, 1.0])


def test_of_many_creates_at_once_one_wins_whole() -> None:
    store = Store(Memory())
    begin = threading.Barrier(8)

    def create(number: int) -> bool:
        begin.wait()
        return store.create(*creation(np.full(5000, number), incarnation=number)).applied

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert set(contents(store)[1]) == {float(won.index(True))}


def test_a_create_with_another_table_is_malformed() -> None:
    store = created((1.0, 2.0))
    with pytest.raises(MalformedError, match="not the registered one"):
        store.create(*creation((1.0, 2.0, 3.0)))


@pytest.mark.parametrize("what", [np.nan, np.inf])
def test_a_create_that_is_not_finite_makes_no_shard(what: float) -> None:
    store = Store(Memory())
    with pytest.raises(MalformedError, match="NaN or Inf"):
        store.create(*creation((0.0, what)))
    assert store.versions() == {}
    with pytest.raises(NotFoundError):
        store.read("1/weights")


def test_what_is_not_there_is_named_with_what_is() -> None:
    with pytest.raises(NotFoundError, match=r'no shard "2/weights"; known are \[\'1/weights\'\]'):
        created().apply(*update((0.0, 0.0), shard="2/weights"))


def test_versions_and_reads_go_on_while_shards_are_created() -> None:
    store = created()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            store.versions()
            store.forget(99)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        for k in range(300):
            store.create(*creation((0.0, 0.0), shard=f"{k + 2}/weights"))
        stop.set()
        watching.result(30)


# --- apply ------------------------------------------------------------------------------------------------


def test_pushes_are_applied_in_turn_and_each_makes_a_version() -> None:
    store = created((1.0, 1.0))
    for sequence in (1, 2, 3):
        reply = store.apply(*update((0.5, -0.5), sequence, next_batch=10 * sequence))
        assert (reply.version, reply.sequence, reply.applied) == (sequence, sequence, True)
    assert contents(store) == (3, [2.5, -0.5])
    assert store.next_batch("1/weights") == 30


def test_a_push_that_comes_twice_is_applied_once_and_answered_both_times() -> None:
    store = created()
    store.apply(*update((1.0, 1.0), 1))
    store.apply(*update((1.0, 1.0), 2))
    for sequence in (1, 2):
        reply = store.apply(*update((1.0, 1.0), sequence))
        assert (reply.applied, reply.version, reply.sequence) == (False, 2, sequence)
    assert contents(store) == (2, [2.0, 2.0])


def test_the_same_sequence_of_another_incarnation_is_another_push() -> None:
    store = created()
    assert store.apply(*update((1.0, 1.0), incarnation=1)).applied
    assert store.apply(*update((1.0, 1.0), incarnation=2)).applied
    assert contents(store) == (2, [2.0, 2.0])


def test_one_push_sent_by_many_threads_at_once_is_applied_once() -> None:
    store = created(np.zeros(5000))
    begin = threading.Barrier(8)

    def send(_: int) -> bool:
        begin.wait()
        return store.apply(*update(np.ones(5000))).applied

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(8))) == 1
    assert contents(store) == (1, [1.0] * 5000)


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf, LARGEST])
def test_a_push_that_would_store_nan_or_inf_changes_nothing_and_may_be_sent_anew(what: float) -> None:
    store = created((LARGEST, LARGEST))
    with pytest.raises(MalformedError, match="NaN or Inf"):
        store.apply(*update((0.0, what), next_batch=10))
    assert contents(store) == (0, [LARGEST, LARGEST])
    assert store.next_batch("1/weights") == 0
    # Nothing is remembered of it either: the same sequence is still to come.
    assert store.apply(*update((0.0, 0.0))).applied
    assert contents(store) == (1, [LARGEST, LARGEST])


def test_a_push_with_another_table_changes_nothing() -> None:
    store = created((1.0, 2.0))
    with pytest.raises(MalformedError, match="not the registered one"):
        store.apply(*update((1.0, 2.0, 3.0)))
    assert contents(store) == (0, [1.0, 2.0])


def test_next_batch_never_goes_back() -> None:
    store = created()
    store.apply(*update((0.0, 0.0), next_batch=20, incarnation=1))
    store.apply(*update((0.0, 0.0), next_batch=10, incarnation=2))
    assert store.next_batch("1/weights") == 20
    assert store.next_batch("2/weights") == 0


def test_every_kind_of_tensor_survives_a_push_and_a_pull() -> None:
    store = Store(Memory())
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, MIXED.nbytes, np.uint8)
    store.create(Header("1/weights", Operation.CREATE, table=MIXED), [(0, first.tobytes())])
    pushed = np.zeros(MIXED.nbytes, np.uint8)
    change = MIXED.arrays(pushed)
    change["mask"][...] = [True, False, True, False]
    change["count"][...] = -1
    change["mean"][...] = [7, 8, 9]
    header = Header("1/weights", Operation.UPDATE, 0, 1, 1, table=MIXED)
    store.apply(header, [(0, pushed[:40].tobytes()), (40, pushed[40:].tobytes())])
    reading = store.read("1/weights")
    old, new = MIXED.arrays(first), MIXED.arrays(reading.buffer)
    np.testing.assert_array_equal(new["mask"], old["mask"] ^ change["mask"])
    np.testing.assert_array_equal(new["count"], old["count"] - 1)
    np.testing.assert_array_equal(new["mean"], [7, 8, 9])
    np.testing.assert_array_equal(new["weight"], old["weight"])
    reading.release()


# --- readers ----------------------------------------------------------------------------------------------


def test_readers_among_writers_see_one_version_in_every_number() -> None:
    """Version v holds v in every number: a buffer of two versions shows as two numbers."""
    count, pushes = 100_000, 150
    store = created(np.zeros(count))
    stop = threading.Event()
    ones = np.ones(count)

    def write(incarnation: int) -> None:
        for sequence in range(1, pushes + 1):
            assert store.apply(*update(ones, sequence, incarnation=incarnation)).applied

    def read() -> int:
        seen = 0
        while not stop.is_set():
            reading = store.read("1/weights")
            copy = np.frombuffer(reading.buffer, np.float32).copy()
            revoked = reading.revoked
            reading.release()
            if not revoked:
                assert (copy == reading.header.version).all(), np.unique(copy)
                seen += 1
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [pool.submit(write, incarnation) for incarnation in (1, 2)]
        for writer in writers:
            writer.result(60)
        stop.set()
        assert all(reader.result(60) for reader in readers)
    assert contents(store) == (2 * pushes, [2.0 * pushes] * count)


def test_a_reader_keeps_its_version_while_a_push_makes_the_next() -> None:
    store = created((1.0, 1.0))
    reading = store.read("1/weights")
    store.apply(*update((1.0, 1.0), 1))
    assert np.frombuffer(reading.buffer, np.float32).tolist() == [1.0, 1.0]
    assert not reading.revoked
    reading.release()
    reading.release()
    store.apply(*update((1.0, 1.0), 2))
    assert contents(store) == (2, [3.0, 3.0])


def test_a_reader_that_stays_is_revoked_and_pushes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "READER_SECONDS", 0.05)
    store = created()
    staying = store.read("1/weights")
    store.apply(*update((1.0, 1.0), 1))
    later = store.read("1/weights")
    assert not staying.revoked
    store.apply(*update((1.0, 1.0), 2))
    assert staying.revoked
    assert not later.revoked
    staying.release()
    assert contents(store) == (2, [2.0, 2.0])


def test_a_push_waits_for_a_reader_that_leaves_in_time() -> None:
    store = created()
    reading = store.read("1/weights")
    store.apply(*update((1.0, 1.0), 1))
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(store.apply, *update((1.0, 1.0), 2))
        assert contents(store) == (1, [1.0, 1.0])
        reading.release()
        assert pushing.result(30).version == 2
    assert not reading.revoked


# --- fencing ----------------------------------------------------------------------------------------------


def record(store: Store) -> Record:
    return store._shards["1/weights"].pair.record


def test_what_is_remembered_of_a_fenced_incarnation_is_dropped_and_of_others_kept() -> None:
    store = created()
    for incarnation in (1, 2):
        store.read("1/weights", incarnation).release()
        store.apply(*update((1.0, 1.0), incarnation=incarnation))
    store.forget(1)
    assert record(store).sequences == {2: 1}
    assert set(store._shards["1/weights"].fetched) == {2}
    assert set(store._shards["1/weights"].own_since) == {2}
    assert contents(store) == (2, [2.0, 2.0])
    assert not store.apply(*update((1.0, 1.0), incarnation=2)).applied


def test_a_push_whose_sender_is_fenced_while_it_is_applied_changes_nothing() -> None:
    store = created()

    def fenced() -> None:
        raise FencedError("incarnation 1 holds no lease any more")

    with pytest.raises(FencedError):
        store.apply(*update((1.0, 1.0), next_batch=5), fenced)
    assert contents(store) == (0, [0.0, 0.0])
    assert record(store) == Record()


def test_forgetting_waits_for_no_push_that_waits_for_a_reader() -> None:
    store = created()
    reading = store.read("1/weights")
    store.apply(*update((1.0, 1.0), 1))
    admitted = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        pushing = pool.submit(store.apply, *update((1.0, 1.0), 2), admitted.set)
        # Had `forget` to wait for the push, it would wait for the reader: longer than for this.
        pool.submit(store.forget, 1).result(shards.READER_SECONDS / 2)
        assert not admitted.is_set()
        reading.release()
        pushing.result(30)
    assert contents(store) == (2, [2.0, 2.0])


def test_a_forget_between_a_pushs_writing_and_its_commit_is_not_undone_by_it() -> None:
    store = created()
    store.apply(*update((1.0, 1.0), incarnation=1))
    fencing = threading.Thread(target=store.forget, args=(1,))

    # While the push of 2 is about to commit, 1 is fenced: its sequence must not come back.
    def admit() -> None:
        fencing.start()

    store.apply(*update((1.0, 1.0), incarnation=2), admit)
    fencing.join(30)
    assert record(store).sequences == {2: 1}
    store.apply(*update((1.0, 1.0), 2, incarnation=2))
    assert record(store).sequences == {2: 2}


# --- staleness --------------------------------------------------------------------------------------------


def test_alone_a_slave_is_never_stale() -> None:
    store = created()
    store.read("1/weights", 1).release()
    assert [store.apply(*update((0.0, 0.0), s)).staleness for s in range(1, 6)] == [0] * 5


def test_staleness_counts_what_others_did_since_the_fetch_and_not_ones_own() -> None:
    store = created()
    for incarnation in (1, 2):
        store.read("1/weights", incarnation).release()
    assert store.apply(*update((0.0, 0.0), 1, incarnation=1)).staleness == 0
    assert store.apply(*update((0.0, 0.0), 2, incarnation=1)).staleness == 0
    assert store.apply(*update((0.0, 0.0), 1, incarnation=2)).staleness == 2
    assert store.apply(*update((0.0, 0.0), 3, incarnation=1)).staleness == 1
    store.read("1/weights", 1).release()
    assert store.apply(*update((0.0, 0.0), 4, incarnation=1)).staleness == 0


def test_a_duplicate_has_no_staleness_and_counts_for_none() -> None:
    store = created()
    for incarnation in (1, 2):
        store.read("1/weights", incarnation).release()
    store.apply(*update((0.0, 0.0), 1, incarnation=1))
    assert store.apply(*update((0.0, 0.0), 1, incarnation=1)).staleness == 0
    assert store.apply(*update((0.0, 0.0), 1, incarnation=2)).staleness == 1


ACTIONS = st.lists(st.tuples(st.sampled_from(["fetch", "push", "again"]), st.integers(1, 3)), max_size=40)


@given(ACTIONS)
def test_in_any_history_staleness_is_what_others_applied_since_the_own_last_fetch(
    actions: list[tuple[str, int]],
) -> None:
    store = created()
    applied: list[int] = []
    fetched_at = dict.fromkeys((1, 2, 3), 0)
    sequences = dict.fromkeys((1, 2, 3), 0)
    for what, slave in actions:
        if what == "fetch":
            reading = store.read("1/weights", slave)
            assert (reading.header.version, reading.header.sequence) == (len(applied), sequences[slave])
            reading.release()
            fetched_at[slave] = len(applied)
        elif what == "push":
            sequences[slave] += 1
            reply = store.apply(
                *update((1.0, 1.0), sequences[slave], incarnation=slave, version=fetched_at[slave])
            )
            others = [who for who in applied[fetched_at[slave] :] if who != slave]
            assert reply.staleness == len(others)
            applied.append(slave)
        elif sequences[slave]:
            assert not store.apply(*update((1.0, 1.0), sequences[slave], incarnation=slave)).applied
    assert contents(store) == (len(applied), [float(len(applied))] * 2)


class Kept:
    """Backing that outlives a store, as files do."""

    def __init__(self) -> None:
        self.slots: dict[str, MemoryPair] = {}

    def create(self, name: str, table: Table, nbytes: int) -> MemoryPair:
        return self.slots.setdefault(name, MemoryPair(table, nbytes))

    def load(self) -> dict[str, BufferPair]:
        return dict(self.slots)

    def remove(self, name: str) -> None:
        self.slots.pop(name, None)


def test_after_the_masters_restart_a_slaves_own_pushes_do_not_make_it_stale() -> None:
    backing = Kept()
    store = Store(backing)
    store.create(*creation((0.0, 0.0)))
    for sequence in range(1, 8):
        store.apply(*update((1.0, 1.0), sequence))
    store = Store(backing)
    assert not store.apply(*update((1.0, 1.0), 7)).applied
    assert store.apply(*update((1.0, 1.0), 8)).staleness == 0
    store.apply(*update((1.0, 1.0), 1, incarnation=2, version=7))
    assert store.apply(*update((1.0, 1.0), 9)).staleness == 1
    assert contents(store) == (10, [10.0, 10.0])


def test_a_version_that_is_a_lie_is_refused() -> None:
    store = created()
    with pytest.raises(MalformedError, match="version = 99 is ahead; the shard has 0"):
        store.apply(*update((1.0, 1.0), version=99))
    assert contents(store) == (0, [0.0, 0.0])


@pytest.mark.parametrize("sequence", [3, 7, 2**53 - 1, 2**64 - 1])
def test_a_gap_in_the_sequences_consumes_nothing(sequence: int) -> None:
    store = created()
    store.apply(*update((1.0, 1.0), 1))
    with pytest.raises(MalformedError, match=f"sequence = {sequence} came where 2 is due"):
        store.apply(*update((8.0, 8.0), sequence))
    assert store.apply(*update((1.0, 1.0), 2)).applied
    assert contents(store) == (2, [2.0, 2.0])


@given(st.lists(st.tuples(st.sampled_from(("push", "again", "gap", "restart")), st.integers(1, 3))))
def test_in_any_history_a_sequence_is_the_last_or_the_next(steps: list[tuple[str, int]]) -> None:
    """Model: the last sequence of each incarnation, over retries, gaps and restarts of the master."""
    backing = Outliving()
    store = Store(backing)
    store.create(*creation((0.0, 0.0)))
    last = dict.fromkeys((1, 2, 3), 0)
    for what, slave in steps:
        if what == "restart":
            store = Store(backing)
        elif what == "push":
            last[slave] += 1
            assert store.apply(*update((1.0, 1.0), last[slave], incarnation=slave)).applied
        elif what == "again" and last[slave]:
            assert not store.apply(*update((1.0, 1.0), last[slave], incarnation=slave)).applied
        elif what == "gap":
            with pytest.raises(MalformedError):
                store.apply(*update((1.0, 1.0), last[slave] + 2, incarnation=slave))
        assert contents(store) == (sum(last.values()), [float(sum(last.values()))] * 2)


# --- frozen tensors ---------------------------------------------------------------------------------------

FROZEN = slice(PARTLY_FROZEN.pushed.nbytes, PARTLY_FROZEN.nbytes)


def partly_frozen(backing: Memory | None = None) -> tuple[Store, bytes]:
    """Store with a shard of `PARTLY_FROZEN`, and the shard's contents."""
    store = Store(backing or Memory())
    data = np.zeros(PARTLY_FROZEN.nbytes, np.uint8)
    for name, array in PARTLY_FROZEN.arrays(data).items():
        array[...] = {"fixed": 0.5, "weight": 2.0, "mean": 3.0, "mask": True}[name]
    header = Header("1/weights", Operation.CREATE, incarnation=1, table=PARTLY_FROZEN)
    assert store.create(header, [(0, data.data)]).applied
    return store, data.tobytes()


def change(store: Store, sequence: int) -> None:
    """Push what moves: 1 for each parameter, and a mean."""
    header = Header("1/weights", Operation.UPDATE, 0, 1, sequence, table=PARTLY_FROZEN)
    assert header.nbytes == PARTLY_FROZEN.pushed.nbytes == 12
    numbers = np.array([1.0, 1.0, sequence], np.float32)
    assert store.apply(header, [(0, memoryview(numbers.tobytes()))]).applied


def tensors(store: Store) -> dict[str, list[float]]:
    reading = store.read("1/weights")
    try:
        return {name: array.tolist() for name, array in PARTLY_FROZEN.arrays(reading.buffer).items()}
    finally:
        reading.release()


def test_pushes_without_the_frozen_tensors_move_the_rest_and_every_version_has_all() -> None:
    store, _ = partly_frozen()
    for sequence in (1, 2, 3):
        change(store, sequence)
        weight = [2.0 + sequence] * 2
        moved = {"weight": weight, "mean": [sequence]}
        assert tensors(store) == {"fixed": [0.5] * 4, "mask": [True] * 3, **moved}


def test_a_store_that_died_after_the_creation_has_frozen_tensors_in_later_versions() -> None:
    """The second buffer of such a shard is still empty, whatever the first holds."""
    backing = Outliving()
    _, data = partly_frozen(backing)
    pair = backing.load()["1/weights"]
    pair.buffers[1][:] = 0
    successor = Store(backing)
    change(successor, 1)
    assert tensors(successor)["fixed"] == [0.5] * 4
    assert pair.buffers[1][FROZEN].tobytes() == data[FROZEN]


@pytest.mark.parametrize("pushes", [0, 1, 2])
def test_a_rollback_brings_its_own_frozen_tensors_into_every_later_version(pushes: int) -> None:
    store, data = partly_frozen()
    for sequence in range(1, pushes + 1):
        change(store, sequence)
    other = np.frombuffer(data, np.uint8).copy()
    PARTLY_FROZEN.arrays(other)["fixed"][...] = 0.25

    def fill(buffer: Bytes) -> None:
        buffer[:] = other

    store.put_back("1/weights", PARTLY_FROZEN, PARTLY_FROZEN.nbytes, Record(version=7), fill)
    for sequence in (1, 2):
        assert tensors(store)["fixed"] == [0.25] * 4
        change(store, sequence)
    assert tensors(store) == {"fixed": [0.25] * 4, "weight": [4.0] * 2, "mean": [2.0], "mask": [True] * 3}


def test_a_creation_with_nan_in_a_frozen_tensor_is_refused() -> None:
    store = Store(Memory())
    data = np.zeros(PARTLY_FROZEN.nbytes, np.uint8)
    PARTLY_FROZEN.arrays(data)["fixed"][0] = np.nan
    header = Header("1/weights", Operation.CREATE, incarnation=1, table=PARTLY_FROZEN)
    with pytest.raises(MalformedError, match="NaN"):
        store.create(header, [(0, data.data)])
    assert not store.versions()
