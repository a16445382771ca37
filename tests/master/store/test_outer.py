"""master.store.outer: DiLoCo's outer optimizer, delayed for several replicas, exactly once and durable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.config.files import load
from common.shards.pushes import Operation
from master.disk.snapshots import Snapshots
from master.disk.state import StateDirectory
from master.store.outer import Outer
from master.store.policies import Policy, policies, uniform
from master.store.staleness import StalenessRule
from master.store.store import Backing, Memory, Store
from tests.master.disk.test_snapshots import put_back
from tests.master.pushes import SHARD, creation, noise, update

Doubles = npt.NDArray[np.float64]
RATE, MOMENTUM, COUNT = 0.7, 0.9, 48


def created(replicas: int, backing: Backing | None = None, rule: StalenessRule | None = None) -> Store:
    policy = Policy(replicas, rule or StalenessRule(), Outer(RATE, MOMENTUM, replicas))
    store = Store(backing or Memory(), uniform(policy))
    if SHARD not in store.versions():
        store.create(*creation(np.zeros(COUNT)))
    return store


def whole(store: Store) -> npt.NDArray[np.float32]:
    """A shard's parameters with moments."""
    reading = store.read(SHARD)
    try:
        return np.frombuffer(reading.whole, np.float32).copy()
    finally:
        reading.release()


def push(store: Store, number: int, replicas: int = 1) -> None:
    """Push change `number`, from 1, of a run in which the replicas push in turns."""
    slave, sequence = 1 + (number - 1) % replicas, 1 + (number - 1) // replicas
    assert store.apply(*update(noise(number, COUNT), sequence, incarnation=slave)).applied


def expected(changes: list[Doubles], replicas: int, rate: float, momentum: float) -> Doubles:
    """Weights after changes, in float64, by the equations of Liu et al. 2024."""
    weights, average, buffered = (np.zeros(COUNT) for _ in range(3))
    for number, change in enumerate(changes, 1):
        buffered = buffered + change
        weights = weights + rate * change / replicas
        if number % replicas == 0:
            average = momentum * average + buffered / replicas
            weights = weights + rate * momentum * average
            buffered = np.zeros(COUNT)
    return weights


def test_with_one_replica_the_outer_step_is_nesterovs_of_torch() -> None:
    store, weights = created(1), torch.nn.Parameter(torch.zeros(COUNT))
    optimizer = torch.optim.SGD([weights], RATE, MOMENTUM, nesterov=True)
    for number in range(1, 9):
        push(store, number)
        weights.grad = -torch.from_numpy(noise(number, COUNT))
        optimizer.step()
        np.testing.assert_allclose(whole(store)[:COUNT], weights.detach().numpy(), rtol=2e-5, atol=2e-6)
    assert whole(store).size == 2 * COUNT


@given(st.integers(1, 4), st.integers(1, 12), st.floats(0.1, 1.0), st.floats(0.0, 0.95), st.integers(1, 47))
def test_a_round_of_pushes_moves_the_momentum_once_in_pieces_too(
    replicas: int, pushes: int, rate: float, momentum: float, cut: int
) -> None:
    store = Store(Memory(), uniform(Policy(replicas, optimizer=Outer(rate, momentum, replicas))))
    store.create(*creation(np.zeros(COUNT)))
    changes = [noise(number, COUNT) for number in range(pushes)]
    for sequence, change in enumerate(changes, 1):
        header, ((_, data),) = update(change, sequence)
        store.apply(header, [(0, data[: 4 * cut]), (4 * cut, data[4 * cut :])])
        # Comes again: its answer was lost.
        assert not store.apply(header, [(0, data)]).applied
    doubles = [change.astype(float) for change in changes]
    np.testing.assert_allclose(
        whole(store)[:COUNT], expected(doubles, replicas, rate, momentum), rtol=1e-4, atol=1e-4
    )


def test_without_momentum_a_round_at_rate_1_adds_the_mean_change() -> None:
    store = Store(Memory(), uniform(Policy(2, optimizer=Outer(1.0, 0.0, 2))))
    store.create(*creation(np.zeros(1)))
    store.apply(*update(3.0, incarnation=1))
    store.apply(*update(5.0, incarnation=2))
    assert whole(store)[0] == 4.0


def test_a_stale_change_is_scaled_before_the_momentum_takes_it() -> None:
    store = created(1, rule=StalenessRule("scale"))
    for number in (1, 2):
        store.apply(*update(np.ones(COUNT), number, incarnation=1))
    header, pieces = update(np.ones(COUNT), 1, incarnation=2)
    store.apply(header, pieces)
    np.testing.assert_allclose(
        whole(store)[:COUNT],
        expected([np.ones(COUNT), np.ones(COUNT), np.full(COUNT, 0.5)], 1, RATE, MOMENTUM),
        rtol=1e-5,
    )


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_master_started_anew_goes_on_as_one_that_never_stopped(tmp_path: Path, replicas: int) -> None:
    """The restart falls within a round, whose mean change must outlive the master too."""
    state = StateDirectory(tmp_path)
    store = created(replicas, state)
    for number in range(1, 6):
        push(store, number, replicas)
    again = created(replicas, state)
    # A push that was killed leaves anything in the idle buffer.
    pair = again._shards[SHARD].pair
    pair.buffers[1 - pair.record.active][:] = 255
    unbroken = created(replicas)
    for number in range(1, 11):
        if number > 5:
            push(again, number, replicas)
        push(unbroken, number, replicas)
    np.testing.assert_array_equal(whole(again), whole(unbroken))
    assert pair.record.steps == 10
    state.close()


def test_a_rollback_puts_momentum_and_round_back(tmp_path: Path) -> None:
    store = created(2)
    for number in range(1, 4):
        push(store, number, 2)
    taken, snapshot = whole(store), Snapshots(tmp_path).take(store, {"roster": {}, "counters": {}})
    push(store, 4, 2)
    put_back(store, snapshot)
    np.testing.assert_array_equal(whole(store), taken)
    assert store._shards[SHARD].pair.record.steps == 3


def test_weights_alone_have_the_outer_optimizer_and_take_updates() -> None:
    of = policies(
        load(None, ["network.cuts=[1]", "downpour.replicas=[2, 1]", "downpour.server_optimizer=nesterov"])
    )
    for shard, moments in (("1/weights", 2), ("2/weights", 1), ("1/gradient", 0), ("1/optimizer", 0)):
        assert of(shard).operation is Operation.UPDATE
        assert of(shard).moments == moments


def test_each_fragment_has_rounds_of_its_own_which_outlive_the_master(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    policy = uniform(Policy(2, optimizer=Outer(RATE, MOMENTUM, 2), fragments=2))
    store = Store(state, policy)
    store.create(*creation(np.zeros(COUNT)))
    changes: dict[int, list[Doubles]] = {0: [], 1: []}
    places = {0: slice(0, 32), 1: slice(32, COUNT)}
    # Fragment 0 has an odd number of pushes at the restart.
    for number, fragment in enumerate((0, 1, 1, 0, 0, 1, 0, 1), 1):
        if number == 6:
            store = Store(state, policy)
        header, _ = update(noise(number, COUNT), number)
        whole_change = noise(number, COUNT)
        header = replace(header, fragment=fragment, fragments=2)
        assert store.apply(header, [(0, whole_change[places[fragment]].tobytes())]).applied
        padded = np.zeros(COUNT)
        padded[places[fragment]] = whole_change[places[fragment]]
        changes[fragment].append(padded)
    assert store._shards[SHARD].pair.record.turns == {0: 4, 1: 4}
    total = sum((expected(each, 2, RATE, MOMENTUM) for each in changes.values()), start=np.zeros(COUNT))
    np.testing.assert_allclose(whole(store)[:COUNT], total, rtol=1e-4, atol=1e-5)
    taken = Snapshots(tmp_path / "kept").take(store, {"roster": {}, "counters": {}})
    assert taken.record(SHARD).turns == {0: 4, 1: 4}
    state.close()
