"""slave.training.unlocks: steps of the unlocks, compared with autograd on a twin of the layer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from common.config.optimizer import OptimizerConfig, SynthesizerOptimizerConfig
from common.config.sections import Config
from common.config.synthesizers import VfbnOptions
from common.draws import chance, mix
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.forms import SignalForm
from common.signals.packing import Packing
from common.signals.values import plain
from common.synthesizers import VirtualForward
from common.wire.boundary import Down, End, Ended, Lost, Taken, Up
from master.store.store import Memory, Store
from slave.training.decoupling import PackedSynthesizer, Synthesizer
from slave.training.health import Fallback, Health, compare
from slave.training.layer import Layer
from slave.training.parts import Parts
from slave.training.unlocks.delayed import DelayedUnlock, Late
from slave.training.unlocks.local import Head, LocalUnlock
from slave.training.unlocks.update import UpdateUnlock
from tests.classifying import classifying
from tests.slave.chain import Chain, Incarnation, configured

SGD = OptimizerConfig(name="sgd", learning_rate=0.1)


def build_layer(
    dropout: float = 0.0, optimizer: SynthesizerOptimizerConfig = SGD, goes_down: bool = True
) -> Layer:
    """Build layer 2: 6 in, 5 out, normalized."""
    torch.manual_seed(4)
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(dropout)).train()
    flat = Flat(module)
    return Layer(2, flat, Stepper(flat, optimizer, 10), seed=7, goes_down=goes_down)


def batch_of(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(8, 6, generator=generator), torch.randint(10, (8,), generator=generator)


def parameters(layer: Layer) -> Tensor:
    return layer.flat.parameters.detach().clone()


def gradient_at(layer: Layer, batch: int, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients in weights and input at the present weights, by autograd; no state changes."""
    with layer.flat.keep_buffers():
        passed = layer.forward(batch, x)
        u, h = plain(passed.u), plain(passed.h)
        wrt = [*layer.flat.module.parameters(), u]
        found = torch.autograd.grad(h, wrt, delta)
    return torch.cat([each.flatten() for each in found[:-1]]), found[-1]


def delta_of(seed: int) -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))


# delayed


@pytest.mark.parametrize("shrink", [1.0, 0.5])
def test_delayed_steps_on_the_late_gradient_at_the_present_weights_of_the_input_it_kept(
    shrink: float,
) -> None:
    layer = build_layer(dropout=0.5)
    unlock = DelayedUnlock(Late(layer, shrink=shrink))
    inputs = [batch_of(b) for b in range(3)]
    for b, (x, y) in enumerate(inputs):
        list(unlock.forward(b, x, y))
    assert list(unlock.waiting()) == [0, 1, 2]
    for b, (x, _) in enumerate(inputs):
        before, delta = parameters(layer), delta_of(b)
        step, down = gradient_at(layer, b, x, shrink * delta)
        (message,) = unlock.gradient(b, delta)
        assert isinstance(message, Down)
        torch.testing.assert_close(message.delta, down)
        torch.testing.assert_close(parameters(layer), before - 0.1 * step / 8)
    assert list(unlock.waiting()) == []


def test_shrink_leaves_weight_decay_alone() -> None:
    layer = build_layer(optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, weight_decay=0.5))
    unlock, (x, y) = DelayedUnlock(Late(layer, shrink=0.0)), batch_of(0)
    before = parameters(layer)
    list(unlock.forward(0, x, y))
    list(unlock.gradient(0, delta_of(0)))
    torch.testing.assert_close(parameters(layer), before * (1 - 0.1 * 0.5))


def test_a_batch_that_goes_forward_twice_moves_the_statistics_once() -> None:
    config = configured(unlock="delayed", batches=12, options={"widths": [6, 6], "batch_norm": True})
    chain = Chain(config, seed=2).run()
    counted = [
        int(buffer)
        for slave in chain.slaves
        for name, buffer in slave.flat.module.named_buffers()
        if name.endswith("num_batches_tracked")
    ]
    assert counted == [12, 12]
    layer, (x, _) = build_layer(), batch_of(0)
    layer.forward(0, x)
    before = layer.flat.buffer.clone()
    layer.forward_again(0, x)
    assert torch.equal(layer.flat.buffer, before)


def test_what_a_forward_draws_is_a_function_of_seed_layer_and_batch() -> None:
    layer, (x, _) = build_layer(dropout=0.5), batch_of(0)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = plain(layer.forward(3, x).h)
    other = plain(layer.forward(4, x).h)
    assert torch.equal(torch.rand(3), expected)
    torch.rand(5)
    assert torch.equal(plain(layer.forward_again(3, x).h), first)
    assert not torch.equal(other, first)
    assert torch.equal(plain(build_layer(dropout=0.5).forward(3, x).h), first)


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 63))
def test_every_number_changes_what_is_mixed(numbers: list[int], place: int, bit: int) -> None:
    place %= len(numbers)
    other = [number ^ (1 << bit) if i == place else number for i, number in enumerate(numbers)]
    assert mix(*numbers) != mix(*other)
    assert 0 <= mix(*numbers) < 2**64
    assert 0 <= chance(*numbers) < 1


def test_what_goes_down_of_delayed_is_shrunk_at_every_boundary() -> None:
    """With one batch out and a vanishing learning rate, delta_k is back-propagation's times beta^(K-k)."""
    still = OptimizerConfig(name="sgd", learning_rate=1e-30)
    sent = {}
    for shrink in (1.0, 0.5):
        config = configured(
            unlock="delayed", in_flight=1, batches=2, optimizer=still, decoupling={"shrink": shrink}
        )
        chain = Chain(config, seed=1, pushes=False).run()
        sent[shrink] = {(m.layer, m.batch): plain(m.delta) for m in chain.sent if isinstance(m, Down)}
    for (k, b), tensor in sent[1.0].items():
        torch.testing.assert_close(sent[0.5][k, b], tensor * 0.5 ** (3 - k))


# local


def headed(layer: Layer) -> tuple[LocalUnlock, VirtualForward, Health]:
    head, health = VirtualForward(VfbnOptions(hidden=4), (5,), classifying(10)), Health()
    packing = Packing(SignalForm.plain((5,)))
    return LocalUnlock(layer, Head(head, Stepper(Flat(head), SGD, 10), health, packing)), head, health


def test_local_steps_layer_and_head_on_the_heads_own_loss() -> None:
    layer, (x, y) = build_layer(goes_down=False), batch_of(0)
    unlock, head, health = headed(layer)

    def classified(h: Tensor) -> Tensor:
        first, second = head.maps
        out: Tensor = second(torch.relu(first(h)))
        return out

    with layer.flat.keep_buffers():
        h = plain(layer.forward(0, x).h)
    loss = functional.cross_entropy(classified(h), y)
    wanted = [*layer.flat.module.parameters(), *head.parameters()]
    expected = [p.detach() - 0.1 * g for p, g in zip(wanted, torch.autograd.grad(loss, wanted), strict=True)]
    up, down = unlock.forward(0, x, y)
    assert isinstance(up, Up)
    assert isinstance(down, Taken)
    assert torch.equal(plain(up.h), h.detach())
    assert down.batch == 0
    for parameter, after in zip(wanted, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), after)
    assert health.loss == pytest.approx(float(loss.detach()))


def test_each_part_of_a_batch_has_the_gradient_of_the_head_before_its_step() -> None:
    head, health = VirtualForward(VfbnOptions(hidden=4), (5,), classifying(10)), Health()
    h, y = torch.randn(8, 5), batch_of(0)[1]
    twin = copy.deepcopy(head)
    optimizer = torch.optim.SGD(twin.parameters(), SGD.learning_rate)
    taught = Head(head, Stepper(Flat(head), SGD, 10), health, Packing(SignalForm.plain((5,))), 2)
    delta = plain(taught.step(0, h, y))
    expected, losses = [], []
    for rows in (slice(0, 4), slice(4, 8)):
        optimizer.zero_grad()
        part, loss = twin.supervise(h[rows], y[rows])
        optimizer.step()
        expected.append(part)
        losses.append(float(loss))
    torch.testing.assert_close(delta, torch.cat(expected))
    torch.testing.assert_close(head.maps[0].weight, twin.maps[0].weight)
    assert health.loss == pytest.approx(sum(losses) / 8)


def test_local_sends_no_gradient_and_takes_none() -> None:
    chain = Chain(configured(unlock="local", batches=8), seed=3, gathered=True).run()
    assert {type(m) for m in chain.sent} == {Up, Taken, End, Ended}
    for slave in chain.slaves:
        assert slave.layer.stepped == list(range(8))
        assert slave.trainer.lost_batches == 0
        assert not slave.trainer.delays


# update and its options


def decoupled(layer: Layer, **how: Any) -> tuple[UpdateUnlock, Synthesizer, Health]:
    health: Health = how.pop("health", None) or Health()
    m = VirtualForward(VfbnOptions(hidden=4), (5,), classifying(10))
    flat = Flat(m)
    synthesizer = Synthesizer(m, flat, Stepper(flat, SGD, 10), health, how.pop("every", 1))
    packed = PackedSynthesizer(synthesizer, Packing(SignalForm.plain((5,))))
    return UpdateUnlock(layer, packed, health, **how), synthesizer, health


def test_mixed_steps_on_the_true_gradient_where_it_comes_before_the_next_batch() -> None:
    layer, (x, y) = build_layer(), batch_of(0)
    unlock, _, _ = decoupled(layer, mix_true=True)
    before, delta = parameters(layer), delta_of(0)
    step, down = gradient_at(layer, 0, x, delta)
    assert [type(each) for each in unlock.forward(0, x, y)] == [Up]
    assert set(unlock.waiting()) == {0}
    (message,) = unlock.gradient(0, delta)
    assert isinstance(message, Down)
    torch.testing.assert_close(message.delta, down)
    torch.testing.assert_close(parameters(layer), before - 0.1 * step / 8)
    assert not unlock.waiting()


def test_mixed_steps_on_ms_gradient_once_the_next_batch_is_there_or_the_true_one_is_lost() -> None:
    layer, (x, y) = build_layer(), batch_of(0)
    unlock, synthesizer, _ = decoupled(layer, mix_true=True)
    (up,) = unlock.forward(0, x, y)
    assert isinstance(up, Up)
    before, delta = parameters(layer), synthesizer.gradient(0, plain(up.h), y)
    step, down = gradient_at(layer, 0, x, delta)
    message, _ = unlock.forward(1, *batch_of(1))
    assert isinstance(message, Down)
    assert message.batch == 0
    torch.testing.assert_close(message.delta, down)
    torch.testing.assert_close(parameters(layer), before - 0.1 * step / 8)
    assert [m.batch for m in unlock.lost(1)] == [1]
    # The layer has stepped: the true gradient teaches M alone.
    before = parameters(layer)
    assert list(unlock.gradient(0, delta_of(0))) == []
    assert torch.equal(parameters(layer), before)


def test_a_batch_that_is_not_stepped_on_is_sent_goes_down_and_teaches_m() -> None:
    layer, (x, y) = build_layer(), batch_of(0)
    unlock, synthesizer, _ = decoupled(layer, steps_on=lambda _: False)
    before, m_before = parameters(layer), synthesizer.flat.parameters.detach().clone()
    _, down = unlock.forward(0, x, y)
    assert isinstance(down, Down)
    assert torch.equal(parameters(layer), before)
    assert not any(gradient.any() for gradient in layer.flat.gradients())
    list(unlock.gradient(0, delta_of(0)))
    assert not torch.equal(synthesizer.flat.parameters, m_before)


def test_steps_are_taken_with_their_probability_and_always_the_same() -> None:
    config = configured(decoupling={"step_probability": 0.25})

    def absent() -> Any:
        raise AssertionError("no part is built")

    def taken_by(config: Config, k: int, batches: int) -> list[bool]:
        flat = Flat(nn.Linear(1, 1))
        layer = Layer(k, flat, Stepper(flat, SGD, 10))
        above = SignalForm.plain((1,))
        parts = Parts(config, layer, Health(), classifying(10), above, above, True, absent, absent, absent)
        return [parts.steps_on(b) for b in range(batches)]

    taken = taken_by(config, 1, 4000)
    assert 0.22 < sum(taken) / 4000 < 0.28
    assert taken == taken_by(config, 1, 4000)
    assert taken != taken_by(config, 2, 4000)
    assert all(taken_by(configured(), 1, 100))


def test_m_learns_on_every_nth_true_gradient() -> None:
    unlock, synthesizer, _ = decoupled(build_layer(), every=3)
    learned = []
    for b in range(7):
        list(unlock.forward(b, *batch_of(b)))
        before = synthesizer.flat.parameters.detach().clone()
        list(unlock.gradient(b, delta_of(b)))
        if not torch.equal(synthesizer.flat.parameters, before):
            learned.append(b)
    assert learned == [0, 3, 6]


# M's health, and falling back


def test_two_gradients_are_compared_by_cosine_and_norms() -> None:
    a = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert compare(a, 2 * a) == pytest.approx((1, 0.5))
    assert compare(-a, a) == pytest.approx((-1, 1))
    assert compare(a, torch.zeros_like(a)) == (0, 0)


THRESHOLDS = st.floats(-1, 0.9)
COSINES = st.lists(st.floats(-1, 1), max_size=300)


@given(THRESHOLDS, COSINES)
def test_a_layer_never_falls_back_before_the_grace_is_over_nor_with_a_good_m(
    threshold: float, cosines: list[float]
) -> None:
    early, good = Fallback(threshold), Fallback(threshold)
    for cosine in cosines[: Fallback.GRACE - 1]:
        early.note(cosine)
        assert not early.active
    for cosine in cosines:
        good.note(max(cosine, min(threshold + 1e-6, 1.0)))
        assert not good.active


@given(THRESHOLDS, COSINES)
def test_falling_back_and_coming_back_are_apart_by_the_mean_they_need(
    threshold: float, cosines: list[float]
) -> None:
    fallback = Fallback(threshold)
    for cosine in cosines:
        before = fallback.active
        fallback.note(cosine)
        if fallback.active and not before:
            assert fallback.mean < threshold
        if before and not fallback.active:
            assert fallback.mean > threshold
            assert fallback.mean >= min(threshold + 0.1, (1 + threshold) / 2) - 1e-9


@given(st.floats(-0.5, 0.8), COSINES)
def test_a_bad_m_is_left_and_a_good_one_taken_up_again_in_bounded_time(
    threshold: float, cosines: list[float]
) -> None:
    fallback = Fallback(threshold)
    for cosine in [*cosines, *[-1.0] * 150]:
        fallback.note(cosine)
    assert fallback.active
    for _ in range(150):
        fallback.note(1.0)
    assert not fallback.active


def test_a_layer_that_fell_back_steps_on_late_true_gradients_and_m_goes_on_learning() -> None:
    layer = build_layer()
    fallback = Fallback(0.9)
    unlock, synthesizer, health = decoupled(layer, health=Health(fallback))
    inputs = [batch_of(b) for b in range(4)]
    list(unlock.forward(0, *inputs[0]))
    fallback.active = True
    assert health.fallback
    for b in (1, 2):
        assert [type(each) for each in unlock.forward(b, *inputs[b])] == [Up]
    fallback.active = False
    list(unlock.forward(3, *inputs[3]))
    assert set(unlock.waiting()) == {1, 2}
    for b in (0, 3):
        before = parameters(layer)
        assert list(unlock.gradient(b, delta_of(b))) == []
        assert torch.equal(parameters(layer), before)
    for b in (1, 2):
        before, m_before = parameters(layer), synthesizer.flat.parameters.detach().clone()
        step, down = gradient_at(layer, b, inputs[b][0], delta_of(b))
        (message,) = unlock.gradient(b, delta_of(b))
        assert isinstance(message, Down)
        torch.testing.assert_close(message.delta, down)
        torch.testing.assert_close(parameters(layer), before - 0.1 * step / 8)
        assert not torch.equal(synthesizer.flat.parameters, m_before)
    assert not unlock.waiting()


def poor(fallback_cosine: float | None) -> Config:
    """Configure a run whose M's never learn: v keeps the initial parameters."""
    return configured(
        options={"widths": [8, 8], "batch_norm": True},
        batches=230,
        batch_size=8,
        gradient_options={"trained": False},
        n_push=10**9,
        decoupling={} if fallback_cosine is None else {"fallback_cosine": fallback_cosine},
    )


def test_a_run_with_poor_ms_falls_back_and_loses_nothing() -> None:
    chain = Chain(poor(0.9), seed=4, gathered=True).run()
    assert [slave.health.fallback for slave in chain.slaves] == [True, True, False]
    assert all(sorted(slave.layer.stepped) == list(range(230)) for slave in chain.slaves)


def test_a_lost_batch_of_a_layer_that_fell_back_is_lost_below_too() -> None:
    late = Late(build_layer())
    late.forward(0, batch_of(0)[0])
    assert [type(m) for m in late.lose(0)] == [Lost]
    assert not late.waiting()


def test_a_replacement_of_a_delayed_layer_goes_on_from_the_first_batch_it_has_not_stepped_on() -> None:
    config = configured(unlock="delayed", batches=9, options={"widths": [4, 4]}, batch_size=4)
    slave = Incarnation(config, 1, 1, Store(Memory()))
    for _ in range(3):
        list(slave.trainer.advance())
    assert slave.trainer.next_batch == 0
    list(slave.trainer.receive(Down(0, torch.ones(4, 4), layer=1, incarnation=1)))
    assert slave.trainer.next_batch == 1


def test_the_network_of_a_cnn_goes_through_every_lossless_unlock() -> None:
    for unlock in ("delayed", "local"):
        config = configured(model="cnn", options={"channels": [4, 4]}, unlock=unlock, batches=6)
        chain = Chain(config, seed=1, wire=True).run()
        assert [slave.trainer.steps for slave in chain.slaves] == [6, 6, 6]
