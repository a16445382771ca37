"""slave.training.moments: a slave that takes a seat over goes on with the predecessor's moments."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.config.downpour import DownpourConfig
from common.config.optimizer import SynthesizerOptimizerConfig
from common.config.optimizers import OPTIMIZERS
from common.errors import MalformedError
from common.optim.stepper import Stepper
from common.shards.backup import Backup
from common.shards.flat import Flat
from common.shards.pushes import Operation
from common.shards.working_copy import Push
from master.store.policies import policies
from master.store.store import Memory, Store
from slave.network.endpoint import Endpoint
from slave.network.options import Options
from slave.network.prepared import Prepared
from slave.network.session import Session
from slave.training.moments import Moments
from tests.master.served import Served, served
from tests.slave.chain import configured

NAME = "1/optimizer"


def settings_of(name: str) -> SynthesizerOptimizerConfig:
    return SynthesizerOptimizerConfig(name, 0.05, momentum=0.9 if name == "sgd" else 0.0)


class Seat:
    """Modules of a layer and M with steppers, and the backup of the moments."""

    def __init__(self, store: Store, incarnation: int, name: str, every: int = 4, replica: int = 0) -> None:
        torch.manual_seed(1)
        modules = {"weights": nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), "gradient": nn.Linear(3, 2)}
        self.flats = {kind: Flat(module) for kind, module in modules.items()}
        self.steppers = {kind: Stepper(flat, settings_of(name), 1000) for kind, flat in self.flats.items()}
        self.moments = Moments(self.steppers)
        self.backup = Backup(NAME, self.moments, every, incarnation, replica=replica)
        self.existed = NAME in store.versions()
        if not self.existed:
            self.backup.begin_anew()
            return
        reading = store.read(NAME, incarnation)
        self.backup.begin(reading.header, bytes(reading.buffer))
        reading.release()

    def step(self, batch: int) -> Push | None:
        """Step layer and M once, on gradients that are a function of the batch."""
        generator = torch.Generator().manual_seed(batch)
        for kind, stepper in self.steppers.items():
            for weight in self.flats[kind].learned:
                weight.grad = torch.randn(weight.shape, generator=generator)
            stepper.step(batch)
        return self.backup.due(self.steppers["weights"].steps, batch + 1)

    def copy_moments(self) -> dict[str, torch.Tensor]:
        """Return a copy of the moments."""
        return {
            f"{kind}.{name}": tensor.clone()
            for kind, stepper in self.steppers.items()
            for name, tensor in stepper.state().items()
        }


def answered(store: Store, seat: Seat, push: Push) -> None:
    """Have the master take a backup."""
    take = store.create if push.header.operation is Operation.CREATE else store.apply
    seat.backup.answered(take(push.header, [(0, push.buffer.data)]))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@settings(max_examples=30)
@given(st.sampled_from(["adam", "adamw", "adagrad", "sgd"]), st.integers(1, 30), st.integers(1, 7))
def test_a_successor_has_bit_for_bit_what_was_backed_up_and_goes_on_the_same(
    name: str, steps: int, every: int
) -> None:
    store = Store(Memory())
    first = Seat(store, 1, name, every)
    backed_up = None
    for batch in range(steps):
        push = first.step(batch)
        if push is not None:
            backed_up = first.copy_moments()
            answered(store, first, push)
    second = Seat(store, 2, name, every)
    assert second.existed == (backed_up is not None) == (steps >= every)
    if backed_up is None:
        assert not any(tensor.count_nonzero() for tensor in second.copy_moments().values())
        return
    assert same(second.copy_moments(), backed_up)
    assert float(backed_up["weights.count"]) == float(backed_up["gradient.count"]) == steps // every * every
    # Equal weights give equal steps: a stepper has no further state.
    twin = Seat(Store(Memory()), 3, name)
    twin.moments.load(bytes(second.moments.buffer.numpy()))
    for seat in (second, twin):
        seat.step(steps)
    assert same(second.copy_moments(), twin.copy_moments())
    assert all(torch.equal(second.flats[k].parameters, twin.flats[k].parameters) for k in second.flats)


def test_the_first_backup_creates_the_shard_and_numbers_of_no_step_are_not_sent() -> None:
    store = Store(Memory())
    seat = Seat(store, 1, "adam", every=2)
    assert seat.backup.flush(0, 0) is None
    assert seat.step(0) is None
    first = seat.step(1)
    assert first is not None
    assert first.header.operation is Operation.CREATE
    assert (first.header.sequence, first.header.next_batch) == (0, 0)
    assert seat.backup.flush(2, 2) is None
    answered(store, seat, first)
    assert seat.backup.flush(2, 2) is None
    assert seat.step(2) is None
    second = seat.step(3)
    assert second is not None
    assert (second.header.operation, second.header.sequence) == (Operation.UPDATE, 1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_without_moments_has_nothing_to_back_up(name: str) -> None:
    flat = Flat(nn.Linear(2, 2))
    plain = SynthesizerOptimizerConfig(name, 0.1)
    assert bool(Moments({"weights": Stepper(flat, plain, 10)}).table.tensors) == (name != "sgd")


def test_a_layer_that_learns_nothing_has_nothing_to_back_up() -> None:
    flat = Flat(nn.Linear(2, 2).requires_grad_(False))
    assert not Moments({"weights": Stepper(flat, SynthesizerOptimizerConfig("adam", 0.1), 10)}).table.tensors


def test_the_shard_is_of_buffers_alone_under_the_names_of_its_parts() -> None:
    table = Seat(Store(Memory()), 1, "adam").moments.table
    assert {spec.kind for spec in table.tensors} == {"buffer"}
    names = [f"{kind}.{each}" for kind in ("weights", "gradient") for each in ("m0", "m1", "count")]
    assert [spec.name for spec in table.tensors] == names
    assert table.parameters_nbytes == 0


def test_of_several_replicas_each_moves_the_shard_towards_its_own() -> None:
    # No rule of staleness applies.
    rule = DownpourConfig(replicas=2, staleness="bound", bound=0)
    two = Store(Memory(), policies(replace(configured(), downpour=rule)))
    seats = [Seat(two, number + 1, "adam", every=2, replica=number) for number in range(2)]
    expected: dict[str, torch.Tensor] = {}
    for seat, batches in zip(seats, (range(2), range(10, 16)), strict=True):
        for batch in batches:
            push = seat.step(batch)
            if push is not None:
                answered(two, seat, push)
                # The first backup of the second replica finds a shard, and is not taken; later ones move it
                # by half of the difference.
                if not expected:
                    expected = seat.copy_moments()
                elif push.header.operation is Operation.UPDATE:
                    expected = {k: (expected[k] + ours) / 2 for k, ours in seat.copy_moments().items()}
    assert two.versions()[NAME] == 2
    taker = Seat(two, 9, "adam")
    for name, ours in taker.copy_moments().items():
        torch.testing.assert_close(ours, expected[name])


def test_a_state_of_another_length_is_refused() -> None:
    moments = Seat(Store(Memory()), 1, "adam").moments
    with pytest.raises(MalformedError):
        moments.load(bytes(8))


# --- with a master, over its wire


RUN = ("run.batch_size=8", "network.options={widths=[6, 6]}", "cluster.heartbeat_seconds=60")


@contextmanager
def session(running: Served, name: str) -> Iterator[Session]:
    """Open a slave's session that does not train; the end is that of kill -9, without a farewell."""
    endpoint = Endpoint(running.address)
    lease = running.join(name)
    prepared = Prepared.prepare(running.master.run.config, Options(running.address, "cpu"))
    slave = Session(prepared, lease, endpoint)
    slave.open()
    try:
        yield slave
    finally:
        slave.close()
        endpoint.close()
        running.leave(lease.incarnation)


def copy_moments(slave: Session) -> dict[str, torch.Tensor]:
    return {
        f"{shard.name}.{name}": tensor.clone()
        for shard, stepper in slave._worker.trained.copies
        if not shard.name.endswith("optimizer")
        for name, tensor in stepper.state().items()
    }


def step_and_push(slave: Session, steps: int) -> None:
    """Step on random gradients, and push the changes."""
    for shard, stepper in slave._worker.trained.copies:
        for batch in range(steps if not shard.name.endswith("optimizer") else 0):
            for weight in stepper._flat.learned:
                weight.grad = torch.randn(weight.shape)
            stepper.step(batch)
    slave._farewell()


@pytest.mark.parametrize("push", ["update", "gradient"])
def test_a_slave_that_takes_a_seat_over_has_its_predecessors_moments(tmp_path: Path, push: str) -> None:
    with served(tmp_path, *RUN, f"downpour.push={push}") as running:
        with session(running, "first") as first:
            step_and_push(first, 7)
            kept = copy.deepcopy(copy_moments(first))
            assert {float(v) for name, v in kept.items() if name.endswith("count")} == {7.0}
            # Never pushed: lost with the slave.
            for shard, stepper in first._worker.trained.copies[:2]:
                assert not shard.name.endswith("optimizer")
                for weight in stepper._flat.learned:
                    weight.grad = torch.full_like(weight, 9.0)
                stepper.step(7)
        with session(running, "second") as second:
            assert same(copy_moments(second), kept)
    # The master's optimizer has the weights' own moments.
    parts = {"1/gradient.m0", "1/gradient.m1", "1/gradient.count"}
    weights = {"1/weights.m0", "1/weights.m1", "1/weights.count"}
    assert kept.keys() == (parts if push == "gradient" else parts | weights)


@pytest.mark.parametrize("setting", ["cluster.backup_steps=0", "optimizer.name=sgd"])
def test_where_nothing_is_backed_up_there_is_no_shard(tmp_path: Path, setting: str) -> None:
    sgd = "optimizer.synthesizer.name=sgd"
    with served(tmp_path, *RUN, setting, sgd) as running:
        with session(running, "first") as first:
            step_and_push(first, 3)
        assert sorted(running.master.store.versions()) == ["1/gradient", "1/weights"]


def test_a_new_layer_begins_at_once_and_pulls_nothing(tmp_path: Path) -> None:
    with served(tmp_path, *RUN) as running:
        with session(running, "first") as first:
            own = {shard.name: shard._flat.buffer.clone() for shard, _ in first._worker.trained.copies[:2]}
            assert first._progress.pulls == 0
            assert not first._worker.settled
            step_and_push(first, 0)
            assert first._worker.settled
            assert running.master.store.versions() == dict.fromkeys(own, 0)
        with session(running, "second") as second:
            assert second._progress.pulls == len(own)
            for shard, _ in second._worker.trained.copies[:2]:
                assert torch.equal(shard._flat.buffer, own[shard.name])


def test_a_rollback_to_a_time_before_the_backup_begins_the_optimizers_anew(tmp_path: Path) -> None:
    with served(tmp_path, *RUN) as running:
        with session(running, "first") as first:
            step_and_push(first, 0)
            running.do(running.master.scheduler.take())
            step_and_push(first, 5)
            assert "1/optimizer" in running.master.store.versions()
        running.do(running.master.scheduler.roll_back(1))
        assert "1/optimizer" not in running.master.store.versions()
        with session(running, "second") as second:
            assert not any(tensor.count_nonzero() for tensor in copy_moments(second).values())
