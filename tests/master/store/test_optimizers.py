"""master.store.optimizers: torch's own, piece by piece, to the bit."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MalformedError
from common.optim.optimizers import Settings
from common.shards.table import lay_out
from master.store.optimizers import Bytes, ServerOptimizer, moments_of, room
from master.store.updates import Delay, apply_update, make_step, regions
from tests.master.pushes import MIXED, parameters

Floats = npt.NDArray[np.float32]

RATES = st.floats(1e-4, 1.0)
DECAYS = st.sampled_from([0.0, 0.01])
SETTINGS = st.builds(Settings, st.sampled_from(["adagrad", "adam", "adamw"]), RATES, weight_decay=DECAYS) | (
    st.builds(Settings, st.just("sgd"), RATES, st.just(0.0), st.just(False), DECAYS)
    | st.builds(Settings, st.just("sgd"), RATES, st.floats(0.1, 1.0), st.booleans(), DECAYS)
)


def peer(chosen: Settings, w: torch.nn.Parameter) -> torch.optim.Optimizer:
    """Build torch.optim's class with equal settings."""
    rate, decay = chosen.learning_rate, chosen.weight_decay
    if chosen.name == "sgd":
        return torch.optim.SGD(
            [w], rate, chosen.momentum, weight_decay=decay, nesterov=chosen.nesterov, fused=True
        )
    if chosen.name == "adagrad":
        return torch.optim.Adagrad([w], rate, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if chosen.name == "adamw" else torch.optim.Adam
    return kind([w], rate, weight_decay=decay, fused=True)


class Buffers:
    """Two buffers of a shard of parameters, between which pushes alternate."""

    def __init__(self, chosen: Settings, start: Floats) -> None:
        self.optimizer = ServerOptimizer(chosen)
        self.table = parameters(start.size)
        nbytes = room(self.table, self.optimizer.moments)
        self.active, self.idle = np.zeros(nbytes, np.uint8), np.full(nbytes, 255, np.uint8)
        self.active[: start.nbytes] = start.view(np.uint8)
        self.steps = 0

    @property
    def weights(self) -> Floats:
        return self.active[: self.table.nbytes].view(np.float32)

    def push(
        self, gradient: Floats, cuts: list[int], weight: float = 1.0, delay: Delay | None = None
    ) -> None:
        edges = [0, *cuts, gradient.nbytes]
        data = gradient.tobytes()
        pieces = [(a, data[a:b]) for a, b in itertools.pairwise(edges) if b > a]
        change = make_step(self.optimizer, self.table, self.active, self.idle, self.steps, weight, delay)
        apply_update(regions(self.table), self.active, self.idle, pieces, 1, change)
        self.active, self.idle, self.steps = self.idle, self.active, self.steps + 1


@given(SETTINGS, st.integers(1, 200), st.integers(1, 5), st.data())
def test_pushes_in_pieces_are_steps_of_torchs_class_to_the_bit(
    chosen: Settings, count: int, pushes: int, data: st.DataObject
) -> None:
    """Slaves send pieces of 1 MiB, whole registers."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    start = rng.normal(size=count).astype(np.float32)
    shard, w = Buffers(chosen, start), torch.nn.Parameter(torch.from_numpy(start.copy()))
    theirs = peer(chosen, w)
    for _ in range(pushes):
        gradient = rng.normal(size=count).astype(np.float32)
        cuts = sorted(data.draw(st.sets(st.integers(0, count // 16).map(lambda i: 64 * i), max_size=3)))
        w.grad = torch.from_numpy(gradient.copy())
        theirs.step()
        before = shard.active.copy()
        shard.push(gradient, cuts)
        np.testing.assert_array_equal(shard.idle, before)
        np.testing.assert_array_equal(shard.weights, w.detach().numpy())


@given(SETTINGS, st.integers(1, 100), st.data())
def test_pieces_of_any_size_differ_by_a_rounding_at_most(
    chosen: Settings, count: int, data: st.DataObject
) -> None:
    """The rest of a register at a piece's end is computed by number, with another rounding."""
    rng = np.random.default_rng(0)
    start, gradient = (rng.normal(size=count).astype(np.float32) for _ in range(2))
    whole, cut = Buffers(chosen, start), Buffers(chosen, start)
    whole.push(gradient, [])
    cut.push(
        gradient, sorted(data.draw(st.sets(st.integers(0, count // 2).map(lambda i: 8 * i), max_size=3)))
    )
    np.testing.assert_allclose(cut.weights, whole.weights, rtol=1e-6, atol=1e-6)


def test_adagrad_is_that_of_dean_et_al() -> None:
    """eta_i,K = gamma / sqrt(sum over j <= K of dw_i,j^2)."""
    rng = np.random.default_rng(0)
    shard, total, w = Buffers(Settings("adagrad", 0.3), np.zeros(7, np.float32)), np.zeros(7), np.zeros(7)
    for _ in range(5):
        gradient = rng.normal(size=7).astype(np.float32)
        total += gradient.astype(float) ** 2
        w -= 0.3 / np.sqrt(total) * gradient
        shard.push(gradient, [])
    np.testing.assert_allclose(shard.weights, w, rtol=1e-5)
    (moment,) = moments_of(shard.table, shard.active, 1, slice(0, 28))
    np.testing.assert_allclose(moment, total, rtol=1e-5)


@pytest.mark.parametrize("name", ["adagrad", "sgd", "adam", "adamw"])
def test_a_weight_multiplies_the_learning_rate_and_leaves_what_is_remembered(name: str) -> None:
    chosen = Settings(name, 0.1, 0.9 if name == "sgd" else 0.0)
    start, gradient = np.ones(9, np.float32), np.linspace(-1, 1, 9, dtype=np.float32)
    whole, half = Buffers(chosen, start), Buffers(chosen, start)
    whole.push(gradient, [])
    half.push(gradient, [], weight=0.5)
    np.testing.assert_allclose(half.weights - start, (whole.weights - start) / 2, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(
        *(moments_of(s.table, s.active, 1, slice(0, 36)) for s in (whole, half)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_compensated_gradient_is_what_is_applied() -> None:
    rng = np.random.default_rng(0)
    start, old, gradient = (rng.normal(size=9).astype(np.float32) for _ in range(3))
    shard = Buffers(Settings("sgd", 1.0), start)
    shard.push(gradient, [16], delay=Delay(old.view(np.uint8), 0.5))
    np.testing.assert_allclose(
        shard.weights, start - (gradient + 0.5 * gradient * gradient * (start - old)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["adagrad", "sgd", "adam", "adamw"])
def test_buffers_are_left_to_their_own_rule(name: str) -> None:
    optimizer = ServerOptimizer(Settings(name, 0.1, 0.9 if name == "sgd" else 0.0, weight_decay=0.5))
    table, rng = MIXED, np.random.default_rng(0)
    nbytes = room(table, optimizer.moments)
    active, idle, plain = (np.zeros(nbytes, np.uint8) for _ in range(3))
    pushed = np.zeros(table.nbytes, np.uint8)
    for spec in table.tensors:
        for buffer in (active, pushed):
            array = table.arrays(buffer[: table.nbytes])[spec.name]
            array[...] = rng.integers(0, 2 if array.dtype.kind == "b" else 9, array.shape)
    change = make_step(optimizer, table, active, idle, 0)
    apply_update(regions(table), active, idle, [(0, pushed.tobytes())], 3, change)
    apply_update(regions(table), active, plain, [(0, pushed.tobytes())], 3)
    np.testing.assert_array_equal(
        idle[table.parameters_nbytes : table.nbytes], plain[table.parameters_nbytes : table.nbytes]
    )
    assert (idle[: table.parameters_nbytes] != plain[: table.parameters_nbytes]).any()


def test_what_is_remembered_of_every_parameter_has_its_own_place_behind_the_table() -> None:
    for table in (MIXED, parameters(0), parameters(5), lay_out([("mask", "bool", (3,), "buffer")])):
        assert room(table, 0) == table.nbytes
        buffer: Bytes = np.zeros(room(table, 2), np.uint8)
        for moment in moments_of(table, buffer, 2, slice(0, table.parameters_nbytes)):
            moment.view(np.uint8)[...] += 1
        assert not buffer[: table.nbytes].any()
        assert (buffer[table.nbytes :].max(initial=0), buffer.sum()) == (
            int(table.parameters_nbytes > 0), 2 * table.parameters_nbytes,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["adagrad", "adam"])
@pytest.mark.parametrize("what", [np.nan, np.inf, 1e30])
def test_a_gradient_that_would_spoil_what_is_remembered_is_refused(name: str, what: float) -> None:
    """1e30 squared is Inf: the parameter would stand still for ever."""
    shard = Buffers(Settings(name), np.zeros(3, np.float32))
    before = shard.active.copy()
    with pytest.raises(MalformedError, match="NaN or Inf"):
        shard.push(np.array([0, what, 0], np.float32), [])
    np.testing.assert_array_equal(shard.active, before)
