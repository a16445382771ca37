"""In any history a slave holds the fetched version, and exactly the own changes that the version lacks."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.shards.flat import Flat
from common.shards.pushes import Header
from common.shards.table import Precision
from common.shards.working_copy import Push, WorkingCopy
from master.store.outer import Outer
from master.store.policies import Policy, uniform
from master.store.staleness import StalenessRule
from master.store.store import Memory, Store

NAME, COUNT = "1/weights", 40
POLICIES = {
    "added": Policy(2),
    "refused": Policy(2, StalenessRule("bound", 0)),
    "outer": Policy(2, optimizer=Outer(0.7, 0.9, 2)),
    "int8": Policy(2),
    "int8, outer and refused": Policy(2, StalenessRule("bound", 0), Outer(0.7, 0.9, 2)),
    "outer and refused": Policy(2, StalenessRule("bound", 0), Outer(0.7, 0.9, 2)),
    "fragments": Policy(2, fragments=3),
    "fragments, int8 and outer": Policy(2, optimizer=Outer(0.7, 0.9, 2), fragments=3),
}


def held(
    store: Store, incarnation: int = 0, fragment: int = 0, fragments: int = 0
) -> tuple[Header, npt.NDArray[np.float32]]:
    reading = store.read(NAME, incarnation, moving=fragments > 0, fragment=fragment, fragments=fragments)
    try:
        return reading.header, np.frombuffer(reading.buffer, np.float32).copy()
    finally:
        reading.release()


def place(header: Header) -> slice:
    """Numbers that a push or version is about."""
    table, start = header.layout
    return slice(start // 4, start // 4 + table.nbytes // 4)


class Change:
    """Change of one local step, and for each number the sequence of the push that carries it; 0: none yet."""

    def __init__(self, amount: npt.NDArray[np.float64], sequence: int = 0) -> None:
        self.amount = amount
        self.sequence = np.full(COUNT, sequence)

    def drop(self, numbers: npt.NDArray[np.bool_]) -> None:
        """Forget numbers."""
        self.amount = np.where(numbers, 0.0, self.amount)


class Slave:
    """A working copy, and a model of the weights that the slave must hold."""

    def __init__(self, store: Store, incarnation: int, policy: str = "outer") -> None:
        torch.manual_seed(0)
        self.store, self.incarnation, self.steps = store, incarnation, 0
        self.flat = Flat(nn.Linear(COUNT - 1, 1))
        precision = Precision.INT8 if "int8" in policy else Precision.FLOAT32
        fragments, outer = POLICIES[policy].fragments, "outer" in policy
        self.copy = WorkingCopy(
            NAME, self.flat, 2, incarnation, 2, outer=outer, precision=precision, fragments=fragments
        )
        initial = self.copy.initial()
        store.create(initial.header, [(0, initial.buffer.data)])
        header, self.version = held(store, incarnation)
        self.copy.begin(header, self.version.tobytes())
        self.changes: list[Change] = []
        self.push: Push | None = None
        self.rounding = Change(np.zeros(COUNT))
        self.refused: set[int] = set()
        self.fetch: tuple[Header, npt.NDArray[np.float32]] | None = None
        self._draws = np.random.default_rng(incarnation)

    def step(self) -> None:
        amount = self._draws.normal(size=COUNT)
        self.flat.parameters += torch.from_numpy(amount).float()
        self.changes.append(Change(amount))
        self.steps += 1

    def send(self) -> None:
        """Send a push: until `answer` nothing reaches the master."""
        if push := self.copy.flush(self.steps, 0):
            self.push = push
            numbers, sequence = place(push.header), push.header.sequence
            for change in self.changes:
                own = change.sequence[numbers]
                own[own == 0] = sequence
            # The push lacks the rounding, which stays with the slave.
            residual = np.zeros(COUNT)
            if push.residual.size:
                residual[numbers] = push.residual
            self.rounding = Change(residual)
            self.changes += [Change(-residual, sequence), self.rounding]

    def answer(self) -> None:
        """Have the push reach the master, and the answer the slave."""
        if self.push is not None:
            reply = self.store.apply(self.push.header, [(0, self.push.buffer.data)])
            self.copy.answered(reply)
            if reply.refused:
                # The next version is without the push, whose rounding goes too.
                self.refused.add(reply.sequence)
                own = self.rounding.sequence
                own[own == 0] = reply.sequence
            self.push = None

    def ask(self) -> None:
        """Have the master read a version, which is under way until `take`."""
        if self.fetch is None:
            self.copy.fetching = True
            self.fetch = held(self.store, self.incarnation, *self.copy.wanted)

    def take(self) -> None:
        """Take the version that is under way."""
        if self.fetch is not None:
            header, version = self.fetch
            self.fetch = None
            numbers = np.zeros(COUNT, bool)
            numbers[place(header)] = True
            self.version = self.version.copy()
            self.version[numbers] = version
            for each in self.changes:
                known = (each.sequence <= header.sequence) | np.isin(each.sequence, [*self.refused])
                each.drop(numbers & (each.sequence > 0) & known)
            self.copy.fetched(header, version.tobytes())

    def check(self) -> None:
        own = self.flat.parameters.numpy()
        lacking = sum((each.amount for each in self.changes), start=np.zeros(COUNT))
        np.testing.assert_allclose(own, self.version + lacking, rtol=1e-4, atol=1e-4)


ACTIONS = ("step", "step", "send", "answer", "ask", "take")


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_a_slave_holds_the_fetched_version_and_the_own_changes_that_it_lacks(name: str, seed: int) -> None:
    """Whatever the master makes of a push takes the place of the change, and no change counts twice."""
    store = Store(Memory(), uniform(POLICIES[name]))
    slaves = [Slave(store, number, name) for number in (1, 2)]
    draws = random.Random(seed)
    for _ in range(100):
        slave = draws.choice(slaves)
        getattr(slave, draws.choice(ACTIONS))()
        slave.check()


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_changes_of_fragments_are_all_with_the_master_in_the_end(seed: int) -> None:
    store = Store(Memory(), uniform(POLICIES["fragments"]))
    slaves = [Slave(store, number, "fragments") for number in (1, 2)]
    start, draws = held(store)[1], random.Random(seed)
    total = np.zeros(COUNT)
    for _ in range(60):
        slave = draws.choice(slaves)
        before = len(slave.changes)
        getattr(slave, draws.choice(ACTIONS))()
        if len(slave.changes) == before + 1:
            total += slave.changes[-1].amount
    for slave in slaves:
        slave.answer()
        while slave.copy.flush(slave.steps, 7) is not None:
            assert slave.copy.unanswered is not None
            push = slave.copy.unanswered
            slave.copy.answered(store.apply(push.header, [(0, push.buffer.data)]))
    np.testing.assert_allclose(held(store)[1], start + total, rtol=1e-4, atol=1e-4)


def test_a_blend_leaves_a_share_of_the_own_weights_and_pushes_none_of_it() -> None:
    store = Store(Memory(), uniform(Policy(2)))
    one, other = Slave(store, 1, "added"), Slave(store, 2, "added")
    one.copy._blend = 0.25
    start = one.flat.parameters.clone().numpy()
    other.step()
    other.send()
    other.answer()
    one.step()
    one.ask()
    one.take()
    theirs, ours = other.changes[0].amount, one.changes[0].amount
    np.testing.assert_allclose(one.flat.parameters, start + 0.75 * theirs + ours, rtol=1e-4, atol=1e-5)
    one.send()
    one.answer()
    np.testing.assert_allclose(held(store)[1], start + theirs + ours, rtol=1e-4, atol=1e-5)


def test_under_an_outer_optimizer_a_fetch_follows_the_answer_and_goes_before_the_next_push() -> None:
    """Else a slow link, on which a push is always out, would keep the slave from ever seeing the effect."""
    store = Store(Memory(), uniform(POLICIES["outer"]))
    slave = Slave(store, 1)
    for _ in range(2):
        slave.step()
    push = slave.copy.due(slave.steps, 0)
    assert push is not None
    for _ in range(5):
        slave.step()
        assert not slave.copy.fetch_due(slave.steps)
    slave.copy.answered(store.apply(push.header, [(0, push.buffer.data)]))
    assert slave.copy.due(slave.steps, 0) is None
    assert slave.copy.fetch_due(slave.steps)
    assert slave.copy.due(slave.steps, 0) is not None
