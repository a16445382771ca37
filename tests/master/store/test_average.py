"""The average of weights in a store: the plain formula after any history, exactly once and durable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.files import load
from common.errors import MalformedError, NotFoundError
from common.optim.optimizers import Settings
from common.shards.narrow import encode
from common.shards.pushes import Header, Operation
from common.shards.table import Precision, Table
from master.disk.snapshots import Snapshots
from master.disk.state import StateDirectory
from master.store import shard as shards
from master.store.average import Averaging
from master.store.optimizers import ServerOptimizer
from master.store.outer import Outer
from master.store.policies import Policy, policies, uniform
from master.store.shard import BufferPair
from master.store.staleness import StalenessRule
from master.store.store import Memory, Store
from tests.master.disk.test_snapshots import put_back
from tests.master.pushes import MIXED, PARTLY_FROZEN, SHARD, creation, noise, parameters, update

Doubles = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
AVERAGE, HORIZON, COUNT = "1/average", 3, 9


class Kept(Memory):
    """Buffers that outlive a store, as files do."""

    def __init__(self) -> None:
        self.pairs: dict[str, BufferPair] = {}

    def create(self, name: str, table: Table, nbytes: int) -> BufferPair:
        self.pairs[name] = super().create(name, table, nbytes)
        return self.pairs[name]

    def load(self) -> dict[str, BufferPair]:
        """Return the pairs, with anything in the idle buffers: a push may have been under way."""
        for pair in self.pairs.values():
            pair.buffers[1 - pair.record.active][:] = 255
        return self.pairs


def read(store: Store, name: str, table: Table = MIXED) -> dict[str, npt.NDArray[np.generic]]:
    reading = store.read(name)
    try:
        assert reading.header.table == table
        return {name: each.copy() for name, each in table.arrays(bytes(reading.buffer)).items()}
    finally:
        reading.release()


def weights(store: Store, name: str = SHARD) -> Doubles:
    return read(store, name)["weight"].astype(float).ravel()


@dataclass
class Plain:
    """The average by the definition, a batch at a time, in float64."""

    value: Doubles
    batches: int = 0

    def see(self, weights: Doubles, batches: int) -> None:
        if not self.batches:
            self.value = weights
        for _ in range(batches):
            self.batches += 1
            late = self.batches > 10 * HORIZON
            kept = math.exp(-1 / HORIZON) if late else (1 - 1 / self.batches) ** 10
            self.value = kept * self.value + (1 - kept) * weights


# What stands for a way of pushing: replicas, policy, precision, fragments.
WAYS = {
    "updates": (Policy(1), Precision.FLOAT32),
    "replicas": (Policy(3), Precision.FLOAT32),
    "stale pushes refused": (Policy(2, StalenessRule("bound", 0)), Precision.FLOAT32),
    "outer": (Policy(2, optimizer=Outer(0.7, 0.9, 2)), Precision.FLOAT32),
    "fragments": (Policy(2, optimizer=Outer(0.7, 0.9, 2), fragments=3), Precision.FLOAT32),
    "gradients": (Policy(2, optimizer=ServerOptimizer(Settings("adam", 0.01))), Precision.FLOAT32),
    "bfloat16": (Policy(1), Precision.BFLOAT16),
    "int8": (Policy(2), Precision.INT8),
}


class Slaves:
    """Replicas that push in any order to layer 1, of which MIXED is the table."""

    def __init__(self, store: Store, policy: Policy, precision: Precision) -> None:
        self.store, self.policy, self.precision = store, policy, precision
        self.fetched = dict.fromkeys(range(policy.replicas), 0)
        self.sequences = dict.fromkeys(range(policy.replicas), 0)
        self.next = dict.fromkeys(range(policy.replicas), 0)
        self.last: tuple[Header, Bytes] | None = None

    def push(self, replica: int, batches: int) -> bool:
        self.sequences[replica] += 1
        sequence = self.sequences[replica]
        self.next[replica] += batches * self.policy.replicas
        count = self.policy.fragments
        header = Header(
            SHARD, self.policy.operation, self.fetched[replica], replica + 1, sequence,
            self.next[replica], MIXED, sequence - 1, replica, self.precision,
            (sequence - 1) % count if count else 0, count,
        )  # fmt: skip
        table, _ = header.layout
        wide = np.zeros(table.nbytes, np.uint8)
        numbers = noise(100 * replica + sequence, table.parameters_nbytes // 4)
        wide[: table.parameters_nbytes] = numbers.view(np.uint8)
        data = encode(table, wide, self.precision) if self.precision is not Precision.FLOAT32 else wide
        self.last = header, data
        return self.store.apply(header, [(0, data.data)]).applied

    def repeat(self) -> None:
        """Push the last push again, whose answer was lost."""
        if self.last is not None:
            header, data = self.last
            assert not self.store.apply(header, [(0, data.data)]).applied


EVENTS = st.one_of(
    st.tuples(st.just("push"), st.integers(0, 2), st.integers(0, 9)),
    st.tuples(st.sampled_from(["repeat", "restart", "fetch"]), st.integers(0, 2), st.just(0)),
)


@pytest.mark.parametrize("way", WAYS)
@given(events=st.lists(EVENTS, min_size=1, max_size=25))
def test_the_average_is_the_plain_formulas_after_any_history(
    way: str, events: Sequence[tuple[str, int, int]]
) -> None:
    policy, precision = WAYS[way]
    policy = replace(policy, average=Averaging(HORIZON, policy.replicas))
    backing = Kept()
    store = Store(backing, uniform(policy))
    start = np.zeros(MIXED.nbytes, np.uint8)
    start[:36] = noise(0, COUNT).view(np.uint8)
    store.create(Header(SHARD, Operation.CREATE, incarnation=1, table=MIXED), [(0, start.data)])
    slaves, plain = Slaves(store, policy, precision), Plain(weights(store))
    np.testing.assert_array_equal(weights(store, AVERAGE), weights(store))
    for event, number, batches in events:
        replica = number % policy.replicas
        if event == "push":
            reached = max(slaves.next[replica], store.next_batch(SHARD, replica))
            seen = store.next_batch(SHARD, replica)
            if slaves.push(replica, batches):
                assert reached + batches * policy.replicas == store.next_batch(SHARD, replica)
                plain.see(weights(store), (store.next_batch(SHARD, replica) - seen) // policy.replicas)
        elif event == "repeat":
            slaves.repeat()
        elif event == "fetch":
            store.read(SHARD, replica + 1).release()
            slaves.fetched[replica] = store.versions()[SHARD]
        else:
            store = slaves.store = Store(backing, uniform(policy))
    np.testing.assert_allclose(weights(store, AVERAGE), plain.value, rtol=1e-4, atol=1e-5)
    everything, averaged = read(store, SHARD), read(store, AVERAGE)
    for name in everything.keys() - {"weight"}:
        np.testing.assert_array_equal(averaged[name], everything[name])


def test_a_warm_start_counts_the_batches_of_replica_0_in_full() -> None:
    averaging = Averaging(HORIZON, replicas=3, warm_start=40)
    assert averaging.count({}) == 0
    assert averaging.count({0: 25}) == 25
    assert averaging.count({0: 46, 1: 41, 2: 42}) == 40 + 3
    assert averaging.count({0: 70, 1: 71, 2: 72}) == 71


def test_a_restart_and_a_rollback_put_the_average_back(tmp_path: Path) -> None:
    policy = uniform(Policy(1, optimizer=Outer(0.7, 0.9, 1), average=Averaging(HORIZON)))
    state = StateDirectory(tmp_path / "state")
    store = Store(state, policy)
    store.create(*creation(np.zeros(COUNT)))

    def push(store: Store, number: int) -> None:
        assert store.apply(*update(noise(number, COUNT), number, next_batch=5 * number)).applied

    def found(store: Store) -> Doubles:
        return read(store, AVERAGE, parameters(COUNT))["weight"].astype(float)

    for number in (1, 2):
        push(store, number)
    then = found(store)
    snapshot = Snapshots(tmp_path / "kept").take(store, {"roster": {}, "counters": {}})
    push(store, 3)
    moved = found(store)
    assert not np.array_equal(moved, then)
    np.testing.assert_array_equal(found(Store(state, policy)), moved)
    put_back(store, snapshot)
    np.testing.assert_array_equal(found(store), then)
    # A rollback has fenced the slave; its successor goes on from the same batch to the same average.
    header, pieces = update(noise(3, COUNT), 1, incarnation=2, version=2, next_batch=15)
    assert store.apply(header, pieces).applied
    np.testing.assert_array_equal(found(store), moved)
    state.close()


def test_frozen_tensors_come_with_the_average_and_slaves_fetch_the_weights() -> None:
    store = Store(Memory(), uniform(Policy(average=Averaging(HORIZON))))
    start = np.zeros(PARTLY_FROZEN.nbytes, np.uint8)
    arrays = PARTLY_FROZEN.arrays(start)
    arrays["fixed"][...], arrays["mask"][...] = 7, [True, False, True]
    store.create(Header(SHARD, Operation.CREATE, table=PARTLY_FROZEN), [(0, start.data)])
    for sequence in (1, 2):
        header = Header(
            SHARD, Operation.UPDATE, 0, 1, sequence, 10 * sequence, PARTLY_FROZEN, sequence - 1
        )  # fmt: skip
        pushed = np.zeros(header.nbytes, np.uint8)
        pushed[:8] = np.ones(2, np.float32).view(np.uint8)
        store.apply(header, [(0, pushed.data)])
    averaged = read(store, AVERAGE, PARTLY_FROZEN)
    assert averaged["weight"].tolist() == pytest.approx([2 - 2**-10] * 2)
    assert averaged["fixed"].tolist() == [7] * 4
    assert averaged["mask"].tolist() == [True, False, True]
    fetched = store.read(SHARD, 1)
    assert PARTLY_FROZEN.arrays(bytes(fetched.buffer))["weight"].tolist() == [2, 2]
    fetched.release()
    for asked in ({"moving": True}, {"incarnation": 1}):
        with pytest.raises(MalformedError, match="1/average: is whole, and for readers without a lease"):
            store.read(AVERAGE, **asked)


def test_a_slow_reader_of_the_average_keeps_its_version_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PROMPT_SECONDS", 0.0)
    policy = Policy(1, optimizer=Outer(0.7, 0.9, 1), average=Averaging(HORIZON))
    store = Store(Memory(), uniform(policy))
    start = np.arange(MIXED.nbytes, dtype=np.uint8)
    start[:36] = noise(0, COUNT).view(np.uint8)
    store.create(Header(SHARD, Operation.CREATE, table=MIXED), [(0, start.data)])
    slaves = Slaves(store, policy, Precision.FLOAT32)
    slaves.push(0, 4)
    reading = store.read(AVERAGE)
    expected = bytes(reading.buffer)
    reading.movable = True
    pieces, place = [], 0
    while place < reading.header.nbytes:
        assert place % 8 == 0
        with reading.piece(place, 24) as (piece, _):
            pieces.append(bytes(piece))
            place += len(piece)
        slaves.push(0, 4)
    reading.release()
    assert b"".join(pieces) == expected


def test_an_average_that_would_not_be_finite_is_refused_and_nothing_changes() -> None:
    store = Store(Memory(), uniform(Policy(average=Averaging(HORIZON))))
    store.create(*creation([0.0]))
    store.apply(*update([-3e38], 1, next_batch=5))
    store.apply(*update([3e38], 2, next_batch=5))
    with pytest.raises(MalformedError, match="NaN or Inf"):
        store.apply(*update([3e38], 3, next_batch=6))
    assert store.versions() == {SHARD: 2}


def test_weights_alone_have_an_average_and_only_where_the_key_asks_for_it() -> None:
    keys = ["network.cuts=[1]", "downpour.replicas=[2, 1]", "downpour.warm_start=8", "run.batches=20"]
    asked = policies(load(None, [*keys, "run.average=ema", "run.average_horizon=50"]))
    assert asked("1/weights").average == Averaging(50, 2, 8)
    assert asked("2/weights").average == Averaging(50, 1, 8)
    table = parameters(COUNT)
    assert asked("1/weights").room(table) == 64 + 36
    for shard in ("1/gradient", "1/input", "1/optimizer", "1/time", "1/state-0"):
        assert asked(shard).average is None
    plain = policies(load(None, keys))("1/weights")
    assert plain.average is None
    assert plain.room(table) == table.nbytes
    store = Store(Memory(), uniform(plain))
    store.create(*creation([1.0]))
    with pytest.raises(NotFoundError, match='no shard "1/average"'):
        store.read(AVERAGE)
