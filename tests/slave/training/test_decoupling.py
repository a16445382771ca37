"""slave.training.decoupling: results of the unlocks in chains of real layers on the digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from common.config.optimizer import OptimizerConfig
from common.config.sections import Config
from common.data import batches
from common.data.batches import Batches
from common.models import network
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.values import plain
from common.wire.boundary import Down, Lost, Up
from master.store.store import Memory, Store
from slave.training.health import Health
from slave.training.layer import Layer
from slave.training.top import Top
from tests.classifying import classifying
from tests.slave.chain import Chain, Incarnation, configured, digits

NEVER = 10**9
SGD = OptimizerConfig(name="sgd", learning_rate=0.05, momentum=0.9, weight_decay=1e-3)
ADAM = OptimizerConfig(name="adam", learning_rate=1e-3)
TORCH: dict[str, Any] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=1e-3, fused=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, 1e-3, fused=True),
}
MODELS: dict[str, dict[str, Any]] = {
    # Sizes that fill a vector register: at a tensor's ragged end torch's fused optimizers round otherwise,
    # and in a flat buffer that end is elsewhere.
    "mlp": {"options": {"widths": [32, 16], "batch_norm": True}},
    "cnn": {"model": "cnn", "options": {"channels": [16, 16]}},
}


def whole(config: Config) -> nn.Sequential:
    """Build the undivided network, with the initial parameters of every run of the configuration."""
    blueprint = network.build(config, digits().inputs, digits().targets)
    return nn.Sequential(*blueprint.units).train()


def back_propagated(config: Config, optimizer: str) -> nn.Sequential:
    """Train the network by plain back-propagation over the run's batches, in torch alone."""
    module = whole(config)
    stepping = TORCH[optimizer](module.parameters())
    source = Batches(digits(), config.run.seed, config.run.batch_size)
    for batch in range(config.run.batches):
        stepping.zero_grad()
        loss = functional.cross_entropy(module(source.inputs(batch)), source.labels(batch))
        loss.backward()  # type: ignore[no-untyped-call]
        stepping.step()
    return module


def state(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def error_percent(module: nn.Module) -> float:
    module.eval()
    with torch.no_grad():
        wrong = sum(int((module(x).argmax(1) != y).sum()) for x, y in batches.test_batches(digits()))
    return 100 * wrong / len(digits().test)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize(
    "method",
    [
        {"unlock": "none"},
        {"unlock": "delayed", "in_flight": 1},
        {"unlock": "update", "in_flight": 1, "decoupling": {"mix_true": True}},
    ],
    ids=["none", "delayed", "mixed"],
)
def test_with_one_batch_out_true_gradients_are_back_propagation_bit_for_bit(
    model: str, optimizer: str, method: dict[str, Any]
) -> None:
    # B is a power of two: dividing the sum's gradient at the end, or the loss at the start, is then the same.
    settings = SGD if optimizer == "sgd" else ADAM
    config = configured(**MODELS[model], **method, batches=40, batch_size=32, optimizer=settings)
    chain = Chain(config, seed=1, pushes=False, wire=True).run()
    plain = back_propagated(config, optimizer)
    for ours, theirs in zip(state(chain.network()), state(plain), strict=True):
        assert torch.equal(ours, theirs)


def test_pushing_as_it_goes_changes_nothing_but_the_last_bit() -> None:
    # The master holds own = known + (own - known), rounded, and the slave adopts the sum.
    config = configured(**MODELS["mlp"], unlock="none", batches=30, batch_size=32, optimizer=SGD, n_push=3)
    chain = Chain(config, seed=2).run()
    for ours, theirs in zip(state(chain.network()), state(back_propagated(config, "sgd")), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def loss_of(module: nn.Module) -> float:
    with torch.no_grad():
        x, y = next(batches.test_batches(digits()))
        return float(functional.cross_entropy(module.eval()(x), y))


def cosine_of_m(chain: Chain, k: int) -> float:
    """Return the cosine between M_k's prediction on a new batch and the gradient of the layers above."""
    source = Batches(digits(), seed=99, batch_size=64)
    x, y = source.inputs(0), source.labels(0)
    module = chain.network().train()
    h = module[:k](x).detach().requires_grad_()
    loss = functional.cross_entropy(module[k:](h), y, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    assert h.grad is not None
    synthetic = chain.slaves[k - 1].synthesizer.module.gradient(h.detach(), y)
    return float(functional.cosine_similarity(synthetic.flatten(), h.grad.flatten(), dim=0))


@pytest.mark.parametrize("gradient", ["vfbn", "cdni"])
def test_unlock_update_learns_the_digits_and_m_learns_the_gradient(gradient: str) -> None:
    config = configured(
        options={"widths": [64, 64], "batch_norm": True},
        batches=600,
        batch_size=64,
        gradient=gradient,
        n_push=NEVER,
    )
    chain = Chain(config, seed=3, gathered=True)
    before = loss_of(chain.network())
    chain.run()
    assert min(cosine_of_m(chain, k) for k in (1, 2)) > 0.5
    assert loss_of(chain.network()) < 0.2 * before
    assert error_percent(chain.network()) < 8


def test_the_same_seed_and_schedule_give_the_same_numbers() -> None:
    config = configured(batches=15)
    first, second = (Chain(config, seed=5).run().network() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(state(first), state(second), strict=True))


def lone(k: int, config: Config) -> Incarnation:
    return Incarnation(config, k, 1, Store(Memory()))


def test_the_top_sends_each_examples_own_gradient_whatever_the_batch_size() -> None:
    sizes = {}
    for size in (4, 8):
        flat = Flat(nn.Sequential(nn.Linear(5, 10, bias=False)))
        with torch.no_grad():
            flat.parameters.copy_(torch.linspace(-1, 1, 50))
        top = Top(Layer(2, flat, Stepper(flat, SGD, 10)), Health(), classifying(10))
        h, y = torch.ones(size, 5), torch.arange(size)
        (message,) = top.forward(0, h, y)
        assert isinstance(message, Down)
        sizes[size] = plain(message.delta)
    torch.testing.assert_close(sizes[4], sizes[8][:4])


def test_a_layer_steps_on_the_gradient_of_the_mean_and_goes_back_from_m_of_its_own_h() -> None:
    config = configured(batches=3, batch_size=8, optimizer=OptimizerConfig(name="sgd", learning_rate=0.5))
    slave = lone(2, config)
    blueprint = network.build(config, digits().inputs, digits().targets)
    twin = network.layer(blueprint, config.network.cuts or [], 2)
    x = torch.rand(8, 6)
    y = slave.trainer._batches.labels(0)
    u = x.clone().requires_grad_()
    h = twin(u)
    delta = slave.synthesizer.module.gradient(h.detach(), y)
    h.backward(delta)
    sent = list(slave.trainer.receive(Up(0, x, layer=2, incarnation=1)))
    sent += list(slave.trainer.advance())
    up, down = sent
    assert isinstance(up, Up)
    assert isinstance(down, Down)
    assert torch.equal(plain(up.h), h.detach())
    assert u.grad is not None
    assert torch.equal(plain(down.delta), u.grad)
    with torch.no_grad():
        for parameter, ours in zip(twin.parameters(), slave.flat.module.parameters(), strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(ours, parameter - 0.5 * parameter.grad / 8)


def test_the_first_layer_sends_nothing_down() -> None:
    slave = lone(1, configured(batches=3))
    assert [type(message) for message in slave.trainer.advance()] == [Up]


def test_m_learns_nothing_from_a_lost_batch() -> None:
    slave = lone(1, configured(batches=3))
    list(slave.trainer.advance())
    _, (copy, stepper) = slave.copies
    before = copy._flat.buffer.clone()
    list(slave.trainer.receive(Lost(0, layer=1, incarnation=1)))
    assert stepper.steps == 0
    assert torch.equal(copy._flat.buffer, before)


def test_a_first_layer_without_parameters_passes_its_batches_on() -> None:
    flat = Flat(nn.Sequential(nn.Flatten()))
    layer = Layer(1, flat, Stepper(flat, SGD, 10))
    passed = layer.forward(0, torch.ones(4, 1, 8, 8))
    layer.backward(passed, torch.ones(4, 64))
    layer.step(0, 4)
    assert plain(passed.h).shape == (4, 64)


def test_a_layer_computes_in_bfloat16_and_keeps_and_sends_float32() -> None:
    seen: list[torch.dtype] = []
    flats = []
    for dtype in (None, torch.bfloat16):
        torch.manual_seed(2)
        flat = Flat(nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 8)))
        flat.module[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))  # type: ignore[index]
        layer = Layer(2, flat, Stepper(flat, SGD, 10), autocast=dtype)
        passed = layer.forward(0, torch.linspace(-1, 1, 128).view(4, 32))
        u, h = plain(passed.u), plain(passed.h)
        layer.backward(passed, torch.ones(4, 8))
        assert u.grad is not None
        assert (u.grad.dtype, h.dtype) == (torch.float32, torch.float32)
        layer.step(0, 4)
        flats.append((flat, u.grad, h))
    assert seen == [torch.float32, torch.bfloat16]
    (exact, gradient, h), (rounded, near_gradient, near_h) = flats
    assert not torch.equal(h, near_h)
    for one, other in ((h, near_h), (gradient, near_gradient), (exact.parameters, rounded.parameters)):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.03, atol=0.03)


class Recomputed(nn.Module):
    """Unit with dropout in a part whose activations are, or are not, computed again in the backward."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.linear, self.dropout, self.again = nn.Linear(6, 6), nn.Dropout(0.5), again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part: torch.Tensor = checkpoint(self._part, x, use_reentrant=False) if self.again else self._part(x)
        return x + part

    def _part(self, x: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = self.dropout(torch.tanh(self.linear(x)))
        return dropped


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_a_checkpoint_repeats_the_first_forwards_mask(autocast: torch.dtype | None, late: bool) -> None:
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        flat = Flat(Recomputed(again=again))
        layer = Layer(2, flat, Stepper(flat, OptimizerConfig(), 10), seed=7, autocast=autocast)
        x, delta = torch.randn(4, 6), torch.randn(4, 6)
        passed = (layer.forward_again if late else layer.forward)(3, x)
        torch.rand(again + 1)
        layer.backward(passed, delta)
        grad = plain(passed.u).grad
        assert grad is not None
        found.append([plain(passed.h).detach(), grad, *flat.gradients()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
