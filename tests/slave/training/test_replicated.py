"""Several replicas a layer: every batch goes to the owner in every layer, and every run ends."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.config.data import DataConfig
from common.config.files import load
from common.config.optimizer import SynthesizerOptimizerConfig
from common.data import datasets
from common.data.batches import Batches
from common.data.replicas import BatchRoutes, owner
from common.optim.optimizers import Settings
from common.optim.stepper import AccruingStepper, Stepper
from common.shards.flat import Flat
from common.shards.pushes import Header, Operation, PushReply
from common.shards.working_copy import Push, WorkingCopy
from common.signals.values import Signal
from common.wire.boundary import Direction, Down, Message, Up
from common.wire.messages import JoinReply
from master.store.optimizers import ServerOptimizer
from master.store.policies import Policy, uniform
from master.store.staleness import StalenessRule
from master.store.store import Memory, Store
from slave.training import layers
from slave.training.trainer import WindowedTrainer

TOTAL = 30
BATCHES = Batches(datasets.load(DataConfig()), 0, 4)


class Passing:
    """Unlock without learning, to test the protocol alone."""

    def __init__(self, top: bool) -> None:
        self.taken: list[int] = []
        self._top = top
        self._out: dict[int, Signal] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        self.taken.append(batch)
        if not self._top:
            self._out[batch] = h_below
            yield Up(batch, h_below)
        yield Down(batch, h_below)

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        del self._out[batch]
        yield from ()

    def lost(self, batch: int) -> Iterator[Message]:
        del self._out[batch]
        yield from ()

    def sent(self) -> dict[int, Signal]:
        return dict(self._out)

    def waiting(self) -> Collection[int]:
        return ()


class FirstPassing(Passing):
    """Unlock of layer 1, without a layer below to answer."""

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        return (message for message in super().forward(batch, h_below, y) if isinstance(message, Up))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 7), st.integers(0, 2**32))
def test_every_batch_goes_to_its_owner_once_and_every_replica_ends(
    counts: list[int], warm: int, seed: int
) -> None:
    chance, layers = random.Random(seed), len(counts)
    unlocks: dict[tuple[int, int], Passing] = {}
    trainers: dict[tuple[int, int], WindowedTrainer] = {}
    for k, count in enumerate(counts, 1):
        for r in range(count):
            unlock = FirstPassing(layers == 1) if k == 1 else Passing(k == layers)
            below, above = counts[max(k - 2, 0)], counts[min(k, layers - 1)]
            unlocks[k, r] = unlock
            trainers[k, r] = WindowedTrainer(
                k,
                BATCHES,
                TOTAL,
                unlock,
                window=0 if k == layers else 2 * (layers - k) + 1,
                window_below=2 * (layers - k) + 3,
                incarnation=10 * k + r + 1,
                next_batch=0,
                routes=BatchRoutes(r, count, below, above, warm),
            )
    # A queue for every pair and stream: order is kept within a queue, not between queues.
    under_way: dict[tuple[object, ...], deque[Message]] = {}

    def send(sender: tuple[int, int], messages: Iterator[Message]) -> None:
        for message in messages:
            rising = message.direction is Direction.UP
            to = (message.layer, message.replica)
            under_way.setdefault((sender, to, rising), deque()).append(message)

    for _ in range(100_000):
        ready = [key for key, trainer in trainers.items() if trainer.can_advance]
        waiting = [key for key, queue in under_way.items() if queue]
        if not ready and not waiting:
            break
        choice = chance.choice([*ready, *waiting])
        if choice in trainers:
            send(choice, trainers[choice].advance())
        else:
            message = under_way[choice].popleft()
            to = (message.layer, message.replica)
            send(to, trainers[to].receive(message))
    assert all(trainer.through for trainer in trainers.values())
    assert sum(trainer.lost_batches for trainer in trainers.values()) == 0
    for (k, r), unlock in unlocks.items():
        own = [b for b in range(TOTAL) if owner(b, counts[k - 1], warm) == r]
        assert sorted(unlock.taken) == own


def _working_copy(store: Store, incarnation: int, *, gradient: bool) -> tuple[WorkingCopy, Flat, Stepper]:
    torch.manual_seed(0)
    frozen = nn.Linear(4, 4).requires_grad_(False)
    flat = Flat(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), frozen))
    stepper = (AccruingStepper if gradient else Stepper)(flat, SynthesizerOptimizerConfig("sgd", 0.125), 100)
    accrued = stepper if isinstance(stepper, AccruingStepper) else None
    copy = WorkingCopy("1/weights", flat, 2, incarnation, 2, accrued)
    push = copy.initial()
    store.create(push.header, [(0, push.buffer.data)])
    _fetch(store, copy, incarnation, begin=True)
    return copy, flat, stepper


def _fetch(store: Store, copy: WorkingCopy, incarnation: int, *, begin: bool = False) -> None:
    reading = store.read("1/weights", incarnation, moving=not begin)
    (copy.begin if begin else copy.fetched)(reading.header, bytes(reading.buffer))
    reading.release()


def _learn(flat: Flat, stepper: Stepper, amount: float) -> None:
    for weight in flat.learned:
        weight.grad = torch.full_like(weight, amount)
    stepper.step(0)


def _pushed(store: Store, copy: WorkingCopy, stepper: Stepper) -> tuple[Push, PushReply]:
    push = copy.flush(stepper.steps, 0)
    assert push is not None
    return push, store.apply(push.header, [(0, push.buffer.data)])


def _held(store: Store) -> np.ndarray:
    reading = store.read("1/weights")
    held = np.frombuffer(bytes(reading.buffer), np.float32, 24).copy()
    reading.release()
    return held


def test_a_fetch_takes_what_others_did_and_keeps_what_is_under_way() -> None:
    store = Store(Memory(), uniform(Policy(replicas=2)))
    (one, flat, stepper), (two, other, others) = (_working_copy(store, i, gradient=False) for i in (1, 2))
    start = flat.parameters.detach().numpy().copy()
    _learn(other, others, 1.0)
    two.answered(_pushed(store, two, others)[1])
    # Pushed and not applied yet; and learned since.
    _learn(flat, stepper, 2.0)
    push = one.flush(stepper.steps, 0)
    assert push is not None
    _learn(flat, stepper, 4.0)
    _fetch(store, one, 1)
    np.testing.assert_allclose(flat.parameters.detach().numpy(), start - 0.125 * (1 + 2 + 4), rtol=1e-5)
    # The push arrives after the fetch: nothing is added twice, now or at the next.
    one.answered(store.apply(push.header, [(0, push.buffer.data)]))
    _fetch(store, one, 1)
    np.testing.assert_allclose(flat.parameters.detach().numpy(), start - 0.125 * (1 + 2 + 4), rtol=1e-5)
    one.answered(_pushed(store, one, stepper)[1])
    np.testing.assert_allclose(_held(store), flat.parameters.detach().numpy(), rtol=1e-5)


def test_accrued_gradients_are_summed_pushed_and_replaced_by_what_the_master_makes_of_them() -> None:
    optimizer = ServerOptimizer(Settings("sgd", 0.5))
    store = Store(Memory(), uniform(Policy(optimizer=optimizer)))
    copy, flat, stepper = _working_copy(store, 1, gradient=True)
    start = flat.parameters.detach().numpy().copy()
    _learn(flat, stepper, 1.0)
    _learn(flat, stepper, 2.0)
    np.testing.assert_allclose(flat.parameters.detach().numpy(), start - 0.125 * 3, rtol=1e-5)
    push, reply = _pushed(store, copy, stepper)
    assert push.header.operation is Operation.ACCRUED_GRADIENT
    np.testing.assert_array_equal(push.buffer[: 24 * 4].view(np.float32), 3.0)
    copy.answered(reply)
    _learn(flat, stepper, 4.0)
    _fetch(store, copy, 1)
    np.testing.assert_allclose(flat.parameters.detach().numpy(), start - 0.5 * 3 - 0.125 * 4, rtol=1e-5)


def test_a_refused_push_is_dropped_and_a_fetch_is_due_at_once() -> None:
    store = Store(Memory(), uniform(Policy(2, StalenessRule("bound", 0))))
    (one, flat, stepper), (two, other, others) = (_working_copy(store, i, gradient=False) for i in (1, 2))
    start = flat.parameters.detach().numpy().copy()
    _learn(other, others, 1.0)
    two.answered(_pushed(store, two, others)[1])
    _learn(flat, stepper, 2.0)
    _, reply = _pushed(store, one, stepper)
    assert reply.refused
    one.answered(reply)
    _learn(flat, stepper, 4.0)
    assert one.fetch_due(stepper.steps)
    _fetch(store, one, 1)
    np.testing.assert_allclose(flat.parameters.detach().numpy(), start - 0.125 * (1 + 4), rtol=1e-5)


def test_fragments_and_the_blend_are_of_the_weights_alone() -> None:
    config = load(
        None,
        [*(f"downpour.{key}" for key in ("replicas=2", "fragments=2", "blend=0.5")), "network.layers=1"],
    ).with_cuts([])
    flat = Flat(nn.Linear(8, 8))
    stepper = Stepper(flat, SynthesizerOptimizerConfig("sgd", 0.125), 100)
    for shard, parts, share in (("1/weights", 2, 0.5), ("1/gradient", 1, 0.0)):
        copy = layers.working_copy(config, JoinReply(layer=1, incarnation=1), shard, flat, stepper)
        assert copy.parts == parts
        # A fetched version of zeros leaves the share of the own weights.
        own = flat.parameters.clone()
        copy.begin(header := Header(shard, Operation.VALUE, table=flat.table), own.numpy().tobytes())
        for fragment in range(parts):
            there = replace(header, operation=Operation.MOVING, fragment=fragment, fragments=copy.wanted[1])
            copy.fetched(there, bytes(there.nbytes))
        torch.testing.assert_close(flat.parameters, share * own)
