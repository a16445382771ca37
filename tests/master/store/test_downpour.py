"""Gradients pushed to a store: server optimizer, staleness rules, crashes, convergence."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.files import load
from common.config.pushes import STALENESS_RULES
from common.errors import FencedError, MalformedError
from common.optim.optimizers import Settings
from common.shards.pushes import Operation, PushReply
from master.disk.state import StateDirectory
from master.store.optimizers import ServerOptimizer
from master.store.policies import Policy, policies, uniform
from master.store.staleness import StalenessRule
from master.store.store import Backing, Memory, Store
from tests.master.pushes import SHARD, adam, creation, gradient, noise, update

ROOT = Path(__file__).parents[3]
Numbers = npt.NDArray[np.float32]


def policy(rule: StalenessRule | None = None, name: str = "sgd", rate: float = 1.0) -> Policy:
    return Policy(2, rule or StalenessRule(), ServerOptimizer(Settings(name, rate)))


def created(chosen: Policy, count: int = 2, backing: Backing | None = None) -> Store:
    store = Store(backing or Memory(), uniform(chosen))
    store.create(*creation(np.zeros(count)))
    return store


def whole(store: Store) -> tuple[int, Numbers]:
    """Version of a shard, and parameters with moments."""
    reading = store.read(SHARD)
    try:
        return reading.header.version, np.frombuffer(reading.whole, np.float32).copy()
    finally:
        reading.release()


def numbers(store: Store, incarnation: int = 0) -> Numbers:
    """A shard's parameters, fetched."""
    reading = store.read(SHARD, incarnation)
    try:
        return np.frombuffer(reading.buffer, np.float32).copy()
    finally:
        reading.release()


# --- what a shard takes -----------------------------------------------------------------------------------


def test_with_gradients_weights_take_gradients_and_synthesizers_take_updates() -> None:
    store = Store(Memory(), policies(load(None, ["network.cuts=[1, 2]", "downpour.push=gradient"])))
    for shard in ("2/weights", "2/gradient", "2/input"):
        store.create(*creation((0.0, 0.0), shard=shard))
        right, wrong = Operation.UPDATE, Operation.ACCRUED_GRADIENT
        if shard == "2/weights":
            right, wrong = wrong, right
        header, pieces = update((1.0, 1.0), shard=shard)
        for refused in (wrong, Operation.VALUE, Operation.OPERATION_UNSPECIFIED):
            with pytest.raises(MalformedError, match=f'"{shard}" takes {right.name}, not {refused.name}'):
                store.apply(dataclasses.replace(header, operation=refused), pieces)
            with pytest.raises(MalformedError, match="takes"):
                store.table(dataclasses.replace(header, operation=refused))
        assert store.apply(dataclasses.replace(header, operation=right), pieces).applied


def test_a_shards_policy_is_that_of_its_layer() -> None:
    of = policies(
        load(None, ["network.cuts=[1, 2]", "downpour.replicas=[3, 1, 2]", "downpour.staleness=scale"])
    )
    assert [of(f"{k}/weights").replicas for k in (1, 2, 3)] == [3, 1, 2]
    assert of("1/gradient").rule.name == "scale"
    # A replica's own states are pushed by value, to no mean with other replicas.
    assert (of("1/state-2").replicas, of("1/state-2").rule.name) == (1, "any")
    assert of("1/weights").optimizer is None


def test_a_gradient_that_comes_twice_takes_one_step() -> None:
    store = created(policy())
    for _ in range(2):
        store.apply(*gradient((1.0, 2.0)))
    assert numbers(store).tolist() == [-1.0, -2.0]
    assert store._shards[SHARD].pair.record.steps == 1


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_readers_never_see_what_is_remembered(name: str) -> None:
    store = created(policy(name=name), 5)
    store.apply(*gradient(np.ones(5)))
    assert numbers(store).size == 5


def test_readers_among_gradients_see_one_version_in_every_number() -> None:
    """Gradients are -1 everywhere at rate 1: version v holds v in every parameter and in the sums."""
    chosen = Policy(1, StalenessRule(), ServerOptimizer(Settings("sgd", 1.0, momentum=1e-30)))
    count, pushes, store = 100_000, 60, created(chosen, 100_000)
    minus, stop = -np.ones(count), threading.Event()

    def write(incarnation: int) -> None:
        for sequence in range(1, pushes + 1):
            store.apply(*gradient(minus, sequence, incarnation=incarnation))

    def read() -> int:
        seen = 0
        while not stop.is_set():
            reading = store.read(SHARD)
            copy = np.frombuffer(reading.buffer, np.float32).copy()
            if not reading.revoked:
                assert (copy == reading.header.version).all()
                seen += 1
            reading.release()
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for writer in [pool.submit(write, incarnation) for incarnation in (1, 2)]:
            writer.result(60)
        stop.set()
        assert all(reader.result(60) for reader in readers)
    assert (numbers(store) == 2 * pushes).all()


# --- what survives ----------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    directory = StateDirectory(tmp_path)
    yield directory
    directory.close()


def pushed(store: Store, sequences: range, count: int) -> Store:
    for sequence in sequences:
        assert store.apply(*gradient(noise(sequence, count), sequence)).applied
    return store


@pytest.mark.parametrize("name", ["adagrad", "sgd", "adam", "adamw"])
def test_a_master_started_anew_goes_on_as_one_that_never_stopped(state: StateDirectory, name: str) -> None:
    settings = Settings(name, 0.1, 0.9 if name == "sgd" else 0.0, name == "sgd")
    chosen, count = Policy(1, StalenessRule(), ServerOptimizer(settings)), 48
    pushed(created(chosen, count, state), range(1, 6), count)
    again = Store(state, uniform(chosen))
    # What a push that was killed leaves in the idle buffer.
    slots = again._shards[SHARD].pair
    slots.buffers[1 - slots.record.active][:] = 255
    pushed(again, range(6, 11), count)
    unbroken = pushed(created(chosen, count), range(1, 11), count)
    for ours, theirs in zip(whole(again), whole(unbroken), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert slots.record.steps == 10


PUSHING = textwrap.dedent("""
    import sys
    from pathlib import Path
    from master.disk.state import StateDirectory
    from master.store.store import Store
    from tests.master.pushes import SHARD, adam, creation, gradient, noise

    count = int(sys.argv[2])
    store = Store(StateDirectory(Path(sys.argv[1])), adam())
    store.create(*creation([0.0] * count))
    while True:
        sequence = store.versions()[SHARD] + 1
        print(store.apply(*gradient(noise(sequence, count), sequence)).version, flush=True)
""")


def test_after_kill_9_parameters_and_moments_are_those_of_one_push(tmp_path: Path) -> None:
    """Two processes are killed in a row while pushing; the second goes on from the first's last commit."""
    count = 20_000
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", PUSHING, str(tmp_path), str(count)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(40)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout.read().split("\n")[:-1] if line]
        child.wait()
        child.stdout.close()
    state = StateDirectory(tmp_path)
    version, found = whole(Store(state, adam()))
    state.close()
    assert version in (acknowledged[-1], acknowledged[-1] + 1)
    assert version >= 80
    unbroken = Store(Memory(), adam())
    unbroken.create(*creation(np.zeros(count)))
    _, expected = whole(pushed(unbroken, range(1, version + 1), count))
    np.testing.assert_array_equal(found, expected)


# --- bound ------------------------------------------------------------------------------------------------

BOUND = StalenessRule("bound", bound=1)


def overtaken(store: Store) -> PushReply:
    """Reply to slave 2, after two pushes of slave 1 have overtaken it."""
    for incarnation in (1, 2):
        numbers(store, incarnation)
    for sequence in (1, 2):
        store.apply(*gradient((1.0, 1.0), sequence, incarnation=1))
    return store.apply(*gradient((5.0, 5.0), incarnation=2))


def test_a_push_beyond_the_bound_is_refused_and_changes_no_number() -> None:
    store = created(policy(BOUND))
    reply = overtaken(store)
    assert reply == PushReply(SHARD, 2, 1, 2, applied=False, refused=True)
    assert numbers(store).tolist() == [-2.0, -2.0]
    assert store.next_batch(SHARD) == 0


def test_a_refused_push_is_used_up_whatever_comes_between_and_is_refused_again() -> None:
    store = created(policy(BOUND))
    overtaken(store)
    # Its answer was lost; meanwhile the slave has fetched, so that the push would not be too stale any more.
    reading = store.read(SHARD, 2)
    assert reading.header.sequence == 1
    reading.release()
    again = store.apply(*gradient((5.0, 5.0), incarnation=2))
    assert (again.applied, again.refused, again.sequence) == (False, True, 1)
    # What was learned since goes on from the fetch, and only then is the refusal no longer the last word.
    assert store.apply(*gradient((3.0, 3.0), 2, incarnation=2)).applied
    older = store.apply(*gradient((5.0, 5.0), incarnation=2))
    assert (older.applied, older.refused) == (False, False)
    assert numbers(store).tolist() == [-5.0, -5.0]


def test_a_refusal_outlives_the_master(state: StateDirectory) -> None:
    overtaken(created(policy(BOUND), 2, state))
    again = Store(state, uniform(policy(BOUND)))
    reply = again.apply(*gradient((5.0, 5.0), incarnation=2))
    assert (reply.applied, reply.refused) == (False, True)
    assert numbers(again).tolist() == [-2.0, -2.0]
    again.forget(2)
    assert again._shards[SHARD].pair.record.refused == []


def test_a_push_of_a_fenced_slave_is_fenced_and_not_refused() -> None:
    store = created(policy(BOUND))
    overtaken(store)
    before = store._shards[SHARD].pair.record

    def fenced() -> None:
        raise FencedError("incarnation 2 holds no lease any more")

    with pytest.raises(FencedError):
        store.apply(*gradient((5.0, 5.0), 2, incarnation=2), fenced)
    assert store._shards[SHARD].pair.record == before


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["fetch", "push", "push", "again", "restart"]), st.integers(1, 3)), max_size=50
)


@given(ACTIONS, st.integers(0, 3))
def test_in_any_history_each_push_is_applied_or_refused_once_and_for_all(
    actions: list[tuple[str, int]], bound: int
) -> None:
    """Compare with a model of every push, over fetches, resends and restarts of the master."""
    chosen, backing = policy(StalenessRule("bound", bound)), _Outliving()
    store = created(chosen, 2, backing)
    applied: list[int] = []
    fetched = dict.fromkeys((1, 2, 3), (0, 0))
    fates: dict[int, list[bool]] = {slave: [] for slave in (1, 2, 3)}
    for what, slave in actions:
        version, sequence = fetched[slave]
        if what == "restart":
            store = Store(backing, uniform(chosen))
        elif what == "fetch":
            numbers(store, slave)
            fetched[slave] = (len(applied), len(fates[slave]))
        elif what == "push":
            others = sum(who != slave for who in applied[version:])
            reply = store.apply(
                *gradient(
                    (-1.0, -1.0), len(fates[slave]) + 1, incarnation=slave, version=version, fetched=sequence
                )
            )
            # A master that was started anew counts a refused push among the slave's own: never harsher.
            assert reply.staleness <= others
            assert reply.applied == (reply.staleness <= bound) == (not reply.refused)
            fates[slave].append(reply.applied)
            applied += [slave] * reply.applied
        elif fates[slave]:
            reply = store.apply(*gradient((-1.0, -1.0), len(fates[slave]), incarnation=slave))
            assert (reply.applied, reply.refused) == (False, not fates[slave][-1])
        assert numbers(store).tolist() == [float(len(applied))] * 2


class _Outliving(Memory):
    """Backing that outlives a store, as files do."""

    def __init__(self) -> None:
        self._slots: dict[str, object] = {}

    def create(self, name, table, nbytes):  # type: ignore[no-untyped-def]
        return self._slots.setdefault(name, super().create(name, table, nbytes))

    def load(self):  # type: ignore[no-untyped-def]
        return dict(self._slots)


# --- scale ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["update", "gradient"])
def test_a_stale_push_is_divided_by_its_staleness(kind: str) -> None:
    chosen, sign = policy(StalenessRule("scale")), 1.0
    if kind == "update":
        chosen, sign = dataclasses.replace(chosen, optimizer=None), -1.0

    def push(amounts: tuple[float, float], sequence: int, incarnation: int) -> PushReply:
        header, pieces = gradient(np.array(amounts) * sign, sequence, incarnation=incarnation)
        return store.apply(dataclasses.replace(header, operation=chosen.operation), pieces)

    store = created(chosen)
    for incarnation in (1, 2):
        numbers(store, incarnation)
    for sequence in (1, 2, 3, 4):
        push((8.0, 8.0), sequence, 1)
    assert push((8.0, 4.0), 1, 2).staleness == 4
    assert numbers(store).tolist() == [-34.0, -33.0]


# --- compensate -------------------------------------------------------------------------------------------

COMPENSATE = StalenessRule("compensate", strength=0.5)


@given(
    st.lists(st.tuples(st.sampled_from(["fetch", "push", "push", "spoil"]), st.integers(1, 3)), max_size=40)
)
def test_in_any_history_a_gradient_is_compensated_from_the_weights_that_its_slave_fetched(
    actions: list[tuple[str, int]],
) -> None:
    store, rng = created(policy(COMPENSATE, rate=0.1), 3), np.random.default_rng(0)
    w, at_fetch = np.zeros(3), {}
    sequences = dict.fromkeys((1, 2, 3), 0)
    for what, slave in actions:
        if what == "fetch":
            at_fetch[slave] = numbers(store, slave).astype(float)
        elif what == "push":
            g, sequences[slave] = rng.normal(size=3), sequences[slave] + 1
            store.apply(*gradient(g, sequences[slave], incarnation=slave))
            w = w - 0.1 * (g + 0.5 * g * g * (w - at_fetch.get(slave, w)))
        else:
            # A push that comes to nothing has overwritten the idle buffer all the same.
            with pytest.raises(MalformedError):
                store.apply(*gradient((0.0, 0.0, np.nan), sequences[slave] + 1, incarnation=slave))
        np.testing.assert_allclose(numbers(store), w, atol=1e-4)
        assert len(store._shards[SHARD]._kept) <= len(at_fetch)


def test_what_is_kept_for_compensation_goes_with_its_slave() -> None:
    store = created(policy(COMPENSATE))
    numbers(store, 2)
    for sequence in range(1, 6):
        numbers(store, 1)
        store.apply(*gradient((1.0, 1.0), sequence, incarnation=1))
    kept = store._shards[SHARD]._kept
    assert set(kept) <= {0, 4}
    assert kept[0].tobytes() == bytes(8)
    store.forget(2)
    store.forget(1)
    assert store._shards[SHARD]._kept == {}


def test_other_rules_keep_no_copies() -> None:
    store = created(policy())
    numbers(store, 2)
    for sequence in range(1, 6):
        store.apply(*gradient((1.0, 1.0), sequence, incarnation=1))
    assert store._shards[SHARD]._kept == {}


def test_a_master_started_anew_applies_gradients_uncompensated(state: StateDirectory) -> None:
    store = created(policy(COMPENSATE), 2, state)
    numbers(store, 2)
    store.apply(*gradient((1.0, 1.0), incarnation=1))
    again = Store(state, uniform(policy(COMPENSATE)))
    again.apply(*gradient((2.0, 2.0), incarnation=2))
    assert numbers(again).tolist() == [-3.0, -3.0]


# --- it learns --------------------------------------------------------------------------------------------


class Problem:
    """Least squares: minimize the mean of (x w - y)^2 / 2 over 256 examples of 8 numbers."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(256, 8))
        self.y = self.x @ rng.normal(size=8)

    def gradient(self, w: npt.NDArray[np.float64], batch: int) -> npt.NDArray[np.float64]:
        """(1/B) dL/dw on 16 of the examples."""
        rows = np.arange(16) + 16 * (batch % 16)
        x, y = self.x[rows], self.y[rows]
        return x.T @ (x @ w - y) / 16

    def loss(self, w: npt.NDArray[np.float64]) -> float:
        return float(np.square(self.x @ w - self.y).mean() / 2)


class Slave:
    """Replica that fetches, steps locally, accrues and pushes, as in Dean et al. 2012."""

    n_push, n_fetch, alpha = 5, 5, 0.02

    def __init__(self, store: Store, incarnation: int, problem: Problem) -> None:
        self.store, self.incarnation, self.problem = store, incarnation, problem
        self.w, self.accrued = numbers(store, incarnation).astype(float), np.zeros(8)
        self.sequence = self.steps = self.refused = 0

    def step(self, batch: int) -> None:
        g = self.problem.gradient(self.w, batch)
        self.w, self.accrued, self.steps = self.w - self.alpha * g, self.accrued + g, self.steps + 1
        if self.steps % self.n_push == 0:
            self.sequence += 1
            reply = self.store.apply(*gradient(self.accrued, self.sequence, incarnation=self.incarnation))
            self.accrued, self.refused = np.zeros(8), self.refused + reply.refused
        if self.steps % self.n_fetch == 0:
            self.w = numbers(self.store, self.incarnation).astype(float)


@pytest.mark.parametrize("rule", STALENESS_RULES)
@pytest.mark.parametrize("name", ["adagrad", "sgd"])
def test_two_replicas_one_of_them_slow_solve_least_squares_under_every_rule(rule: str, name: str) -> None:
    problem, draw = Problem(), random.Random(0)
    store = created(
        policy(StalenessRule(rule, 3, 0.04 / Slave.n_push), name, {"adagrad": 0.3, "sgd": 0.02}[name]), 8
    )
    slaves = [Slave(store, incarnation, problem) for incarnation in (1, 2)]
    for batch in range(3000):
        # The second is four times as slow, and overtaken about four times between two of its fetches.
        draw.choices(slaves, (4, 1))[0].step(batch)
    assert problem.loss(np.zeros(8)) > 1
    assert problem.loss(numbers(store).astype(float)) < 1e-4
    assert (slaves[1].refused > 0) == (rule == "bound")
    assert slaves[0].refused == 0
