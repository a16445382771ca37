"""With one replica the master holds, bit for bit, what the slave held at the push."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import MalformedError
from common.optim.optimizers import Settings
from common.shards.flat import Flat
from common.shards.pushes import Operation, PushReply
from common.shards.table import Precision
from common.shards.working_copy import Push, WorkingCopy
from master.store.optimizers import ServerOptimizer
from master.store.policies import Policy, uniform
from master.store.store import Memory, Store

NAME = "1/weights"


class Everything(nn.Module):
    """A module with state of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.norm = nn.BatchNorm1d(5)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("precise", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("small", torch.zeros(3, dtype=torch.int32))
        self.register_buffer("byte", torch.zeros(3, dtype=torch.uint8))
        self.register_buffer("flags", torch.zeros(5, dtype=torch.bool))
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(4))

    def stirred(self, generator: torch.Generator, scale: float) -> None:
        """Change all of it, as training might: one buffer is replaced rather than changed."""
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                if name == "frozen":
                    continue
                if tensor.dtype.is_floating_point:
                    tensor.add_(torch.randn(tensor.shape, generator=generator) * scale)
                elif tensor.dtype is torch.bool:
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) < 0.5)
                else:
                    tensor.add_(torch.randint(0, 200, tensor.shape, generator=generator).to(tensor.dtype))
            self.mean = self.mean * 0.9


class Slave:
    """A module, its replica, and a count of its steps."""

    def __init__(
        self,
        store: Store,
        incarnation: int,
        n_push: int = 4,
        seed: int = 0,
        precision: Precision = Precision.FLOAT32,
        fragments: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.module = Everything()
        self.flat = Flat(self.module)
        self.copy = WorkingCopy(
            NAME, self.flat, n_push, incarnation, precision=precision, fragments=fragments
        )
        self.steps = 0
        self._store = store
        self._generator = torch.Generator().manual_seed(seed)
        if NAME not in store.versions():
            initial = self.copy.initial()
            store.create(initial.header, [(0, initial.buffer.data)])
        self.fetch(incarnation)

    def fetch(self, incarnation: int) -> None:
        reading = self._store.read(NAME, incarnation)
        self.copy.begin(reading.header, bytes(reading.buffer))
        reading.release()

    def step(self, scale: float = 0.1) -> Push | None:
        self.module.stirred(self._generator, scale)
        self.steps += 1
        return self.copy.due(self.steps, self.steps)

    @property
    def state(self) -> bytes:
        self.flat.gather()
        return self.flat.buffer.numpy().tobytes()


def held(store: Store) -> bytes:
    reading = store.read(NAME)
    contents = bytes(reading.buffer)
    reading.release()
    return contents


def applied(store: Store, push: Push) -> PushReply:
    return store.apply(push.header, [(0, push.buffer.data)])


@pytest.fixture
def store() -> Store:
    return Store(Memory())


def test_the_first_slave_gives_the_shard_its_contents_and_a_later_one_takes_them(store: Store) -> None:
    first = Slave(store, 1, seed=1)
    second = Slave(store, 2, seed=2)
    assert held(store) == first.state == second.state


@pytest.mark.parametrize("precision", list(Precision))
def test_a_creation_is_out_until_answered_and_later_pushes_go_on_from_it(
    store: Store, precision: Precision
) -> None:
    slave = Slave(Store(Memory()), 1, n_push=1)
    slave.copy = WorkingCopy(NAME, slave.flat, 1, 1, precision=precision)
    created = slave.copy.create()
    start = slave.state
    assert slave.step(0.1) is None
    assert created.buffer.tobytes() == start
    reply = store.create(created.header, [(0, created.buffer.data)])
    slave.copy.answered(reply)
    push = slave.step(0.1)
    assert push is not None
    assert (push.header.sequence, push.header.version) == (1, 0)
    assert applied(store, push).applied
    if precision is Precision.FLOAT32:
        assert held(store) == slave.state


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-9, 1e-3, 1.0, 1e6]))
def test_the_master_holds_what_the_slave_held_at_each_push_through_hundreds_of_steps(
    seed: int, scale: float
) -> None:
    store = Store(Memory())
    slave = Slave(store, 1, seed=seed)
    pushes = 0
    for _ in range(300):
        push = slave.step(scale)
        if push is not None:
            slave.copy.answered(applied(store, push))
            assert held(store) == slave.state
            pushes += 1
    assert pushes == 75 == store.versions()[NAME]


def test_a_push_has_no_frozen_tensor_and_a_creation_has_all(store: Store) -> None:
    slave = Slave(store, 1, n_push=1)
    table = slave.flat.table
    assert table.tensors[-1].name == "frozen"
    assert slave.copy.initial().buffer.nbytes == table.nbytes
    push = slave.step()
    assert push is not None
    assert push.buffer.nbytes == push.header.nbytes == table.tensors[-2].offset + table.tensors[-2].nbytes
    assert push.header.nbytes < table.nbytes
    applied(store, push)
    successor = Slave(store, 2, seed=5)
    assert torch.equal(successor.module.frozen, torch.ones(3))
    assert successor.state == slave.state


def test_what_is_learned_while_a_push_is_out_goes_into_the_next(store: Store) -> None:
    slave = Slave(store, 1, n_push=2)
    assert slave.step() is None
    push = slave.step()
    assert push is not None
    at_the_push = slave.state
    for _ in range(9):
        assert slave.step() is None
    slave.copy.answered(applied(store, push))
    assert held(store) == at_the_push
    rest = slave.copy.due(slave.steps, slave.steps)
    assert rest is not None
    assert rest.header.sequence == 2
    applied(store, rest)
    assert held(store) == slave.state


def test_a_push_does_not_change_until_it_is_answered(store: Store) -> None:
    slave = Slave(store, 1, n_push=1)
    push = slave.step()
    assert push is not None
    copy = push.buffer.tobytes()
    for _ in range(20):
        slave.step()
        assert slave.copy.flush(slave.steps, slave.steps) is None
    assert slave.copy.unanswered is push
    assert push.buffer.tobytes() == copy


def test_a_push_that_comes_again_since_its_answer_was_lost_is_applied_once(store: Store) -> None:
    slave = Slave(store, 1, n_push=1)
    push = slave.step()
    assert push is not None
    assert applied(store, push).applied
    again = applied(store, push)
    assert not again.applied
    slave.copy.answered(again)
    assert held(store) == slave.state
    assert store.versions()[NAME] == 1


def test_an_answer_to_another_push_answers_nothing(store: Store) -> None:
    slave = Slave(store, 1, n_push=1)
    push = slave.step()
    slave.copy.answered(PushReply(NAME, 0, 0))
    slave.copy.answered(PushReply(NAME, 5, 2))
    assert slave.copy.unanswered is push


def test_a_push_is_due_every_n_push_steps_of_the_module_however_often_it_is_asked(store: Store) -> None:
    slave = Slave(store, 1, n_push=3)
    due = []
    for step in range(1, 10):
        push = slave.step()
        assert slave.copy.due(slave.steps, 0) is None
        if push is not None:
            due.append(step)
            slave.copy.answered(applied(store, push))
    assert due == [3, 6, 9]


def test_flush_pushes_the_rest_once_and_nothing_where_nothing_was_learned(store: Store) -> None:
    slave = Slave(store, 1, n_push=100)
    assert slave.copy.flush(0, 0) is None
    slave.step()
    push = slave.copy.flush(slave.steps, 17)
    assert push is not None
    assert (push.header.operation, push.header.sequence, push.header.next_batch) == (Operation.UPDATE, 1, 17)
    slave.copy.answered(applied(store, push))
    assert slave.copy.flush(slave.steps, 17) is None
    assert held(store) == slave.state
    assert store.next_batch(NAME) == 17


def test_flush_pushes_what_changed_without_a_step_too(store: Store) -> None:
    slave = Slave(store, 1)
    slave.module.norm(torch.rand(4, 5))
    push = slave.copy.flush(0, 0)
    assert push is not None
    slave.copy.answered(applied(store, push))
    assert held(store) == slave.state
    assert slave.copy.flush(0, 0) is None


def test_a_new_slave_that_fetches_has_exactly_that_state_and_counts_its_own_pushes(store: Store) -> None:
    slave = Slave(store, 1, n_push=2)
    for _ in range(6):
        push = slave.step()
        if push is not None:
            slave.copy.answered(applied(store, push))
    known = slave.state
    slave.step()
    successor = Slave(store, 2, n_push=2, seed=9)
    assert successor.state == known != slave.state
    successor.step()
    push = successor.step()
    assert push is not None
    assert (push.header.incarnation, push.header.sequence) == (2, 1)
    assert applied(store, push).applied
    assert held(store) == successor.state


def test_a_slave_that_fetches_again_goes_on_after_the_sequence_that_was_applied(store: Store) -> None:
    slave = Slave(store, 1, n_push=1)
    push = slave.step()
    assert push is not None
    slave.copy.answered(applied(store, push))
    slave.fetch(1)
    push = slave.step()
    assert push is not None
    assert push.header.sequence == 2
    assert applied(store, push).applied


def test_a_module_without_state_pushes_too() -> None:
    store = Store(Memory())
    flat = Flat(nn.Flatten())
    copy = WorkingCopy(NAME, flat, 1, 1)
    initial = copy.initial()
    store.create(initial.header, [(0, initial.buffer.data)])
    push = copy.due(1, 5)
    assert push is not None
    assert applied(store, push).applied
    assert store.next_batch(NAME) == 5


def test_a_shard_of_another_network_is_not_taken(store: Store) -> None:
    Slave(store, 1)
    reading = store.read(NAME)
    other = Everything()
    other.norm = nn.BatchNorm1d(4)
    with pytest.raises(MalformedError, match=NAME):
        WorkingCopy(NAME, Flat(other), 1, 2).begin(reading.header, bytes(reading.buffer))


def test_a_shard_of_another_network_of_the_same_size_is_not_taken(store: Store) -> None:
    Slave(store, 1)
    reading = store.read(NAME)
    other = Everything()
    other.linear = nn.Linear(5, 5)
    other.more = nn.Linear(9, 1)
    flat = Flat(other)
    assert flat.table.nbytes == len(reading.buffer)
    with pytest.raises(MalformedError, match=NAME):
        WorkingCopy(NAME, flat, 1, 2).begin(reading.header, bytes(reading.buffer))


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.INT8])
def test_the_rounding_of_narrow_pushes_does_not_add_up(store: Store, precision: Precision) -> None:
    """After any number of pushes the master lacks the rounding of the last one alone."""
    slave = Slave(store, 1, n_push=1, precision=precision)
    parameters = slave.flat.table.parameters_nbytes
    for _ in range(200):
        push = slave.step()
        assert push is not None
        assert push.header.precision is precision
        slave.copy.answered(applied(store, push))
        state, master = slave.state, held(store)
        assert state[parameters:] == master[parameters:]
        theirs, ours = (
            torch.frombuffer(bytearray(each[:parameters]), dtype=torch.float32) for each in (master, state)
        )
        assert float((theirs - ours).abs().max()) < 0.004
    # No push of the rounding alone, which would never end.
    assert slave.copy.flush(slave.steps, slave.steps) is None
    successor = Slave(store, 2, seed=5, precision=precision)
    assert successor.state == held(store)


def test_the_rounding_of_narrow_gradients_goes_into_the_next_gradient() -> None:
    store = Store(Memory(), uniform(Policy(optimizer=ServerOptimizer(Settings("sgd", 1.0)))))
    flat = Flat(nn.Linear(300, 1))
    sums = torch.randn(10, 301, generator=torch.Generator().manual_seed(0))

    class Sums:
        """Accrued gradients, one after the other."""

        left = iter(sums.numpy())

        def take(self):  # type: ignore[no-untyped-def]
            return next(self.left)

    copy = WorkingCopy(NAME, flat, 1, 1, 1, Sums(), precision=Precision.INT8)
    initial = copy.initial()
    store.create(initial.header, [(0, initial.buffer.data)])
    copy.begin(replace(initial.header, operation=Operation.VALUE), initial.buffer.data)
    for step in range(1, 11):
        push = copy.due(step, step)
        assert push is not None
        copy.answered(applied(store, push))
        moved = torch.frombuffer(bytearray(held(store)), dtype=torch.float32) - flat.parameters
        assert float((moved + sums[:step].sum(0)).abs().max()) < 0.02


@pytest.mark.parametrize("fragments", [2, 3, 7])
def test_fragments_are_pushed_by_turns_and_the_last_has_the_buffers(fragments: int) -> None:
    """Of a sole slave, all fragments together are the slave's state, to the bit."""
    store = Store(Memory(), uniform(Policy(fragments=fragments)))
    slave = Slave(store, 1, n_push=fragments, fragments=fragments)
    turns = []
    for step in range(1, 2 * fragments + 1):
        push = slave.step()
        assert push is not None
        turns.append(push.header.fragment)
        assert push.buffer.nbytes == push.header.nbytes < slave.flat.table.pushed.nbytes
        # Batches that a fragment lacks are trained on again by a successor.
        assert push.header.next_batch == max(0, step - fragments + 1)
        slave.copy.answered(applied(store, push))
    assert turns == [*range(fragments), *range(fragments)]
    while push := slave.copy.flush(slave.steps, slave.steps):
        slave.copy.answered(applied(store, push))
    assert held(store) == slave.state
    assert store.next_batch(NAME) == 2 * fragments


def test_a_shard_takes_fragments_of_its_own_count_alone() -> None:
    store = Store(Memory(), uniform(Policy(fragments=3)))
    slave = Slave(store, 1, n_push=1, fragments=3)
    push = slave.step()
    assert push is not None
    header = push.header
    for wrong in (
        replace(header, fragments=0),
        replace(header, fragments=4),
        replace(header, fragment=3),
    ):
        with pytest.raises(MalformedError, match="in 3 fragments"):
            store.apply(wrong, [(0, push.buffer.data)])
    assert store.versions()[NAME] == 0
    for moving, fragment, fragments in ((True, 3, 3), (False, 0, 3), (True, 1, 0)):
        with pytest.raises(MalformedError, match="no version has fragment"):
            store.read(NAME, moving=moving, fragment=fragment, fragments=fragments)
