"""SG+prop (Czarnecki et al. 2017): a step on M's gradient and on the gradient of M's loss in h."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common import tasks
from common.config.optimizer import OptimizerConfig
from common.config.synthesizers import PropOptions
from common.config.task import TaskConfig
from common.data.targets import Targets
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.forms import SignalForm
from common.signals.packing import Packing
from common.signals.values import plain
from common.synthesizers import PropagatingRegression
from common.wire.boundary import Down, Taken, Up
from slave.training.decoupling import PackedSynthesizer, Synthesizer
from slave.training.health import Health
from slave.training.layer import Layer
from slave.training.propagating import PropagatingUnlock
from tests.slave.chain import Chain, configured

SGD = OptimizerConfig(name="sgd", learning_rate=0.1)
NUMBERS = tasks.build(TaskConfig(kind="regression"), Targets(0, (3,)))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build_m(alpha: float, *, drawn: bool = True) -> PropagatingRegression:
    module = PropagatingRegression(PropOptions(alpha=alpha), (5,), NUMBERS)
    if drawn:
        for number, parameter in enumerate(module.parameters()):
            parameter.data.copy_(draw(number, *parameter.shape))
    return module


def linear_layer(k: int = 2, *, goes_down: bool = True) -> Layer:
    torch.manual_seed(4)
    flat = Flat(nn.Sequential(nn.Linear(6, 5)))
    return Layer(k, flat, Stepper(flat, SGD, 10), goes_down=goes_down)


def unlock_of(layer: Layer, module: PropagatingRegression) -> PropagatingUnlock:
    flat = Flat(module)
    synthesizer = Synthesizer(module, flat, Stepper(flat, SGD, 10), Health())
    return PropagatingUnlock(layer, PackedSynthesizer(synthesizer, Packing(SignalForm.plain((5,)))))


def exact_m(above: nn.Linear, alpha: float) -> PropagatingRegression:
    """Return the M of h -> above(h) with half the mean squared residual as the loss, by its weights."""
    module, scale = build_m(alpha, drawn=False), 2 / above.out_features
    weight, bias, label = module.parameters()
    with torch.no_grad():
        weight.copy_(scale * above.weight.T @ above.weight)
        bias.copy_(scale * above.weight.T @ above.bias)
        label.copy_(-scale * above.weight)
    return module


def true_delta(above: nn.Linear, h: Tensor, y: Tensor) -> Tensor:
    h = h.detach().requires_grad_()
    (delta,) = torch.autograd.grad(NUMBERS.total(above(h), y), h)
    return delta


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_propagate_adds_alpha_times_the_gradient_of_ms_loss_in_h(alpha: float) -> None:
    module, h, y, delta = build_m(alpha), draw(7, 4, 5), draw(8, 4, 3), draw(9, 4, 5)
    leaf = h.clone().requires_grad_()
    loss = (module._regress(leaf, y) - delta).square().sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(module.propagate(h, y, delta), module.gradient(h, y) + alpha * gradient)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_layer_below_gets_ms_gradient_at_once_and_the_step_waits_for_the_true_one() -> None:
    layer, module = linear_layer(), build_m(0.5)
    unlock, x, y, delta = unlock_of(layer, module), draw(1, 4, 6), draw(2, 4, 3), draw(3, 4, 5)
    weight, bias = (each.detach().clone() for each in layer.flat.module.parameters())
    up, down = unlock.forward(0, x, y)
    assert isinstance(up, Up)
    assert isinstance(down, Down)
    h = plain(up.h)
    torch.testing.assert_close(plain(down.delta), module.gradient(h, y) @ weight)
    assert torch.equal(layer.flat.module[0].weight, weight)  # type: ignore[index]
    assert list(unlock.waiting()) == [0]
    stepped_on = module.propagate(h, y, delta)
    assert list(unlock.gradient(0, delta)) == []
    now = list(layer.flat.module.parameters())
    torch.testing.assert_close(now[0].detach(), weight - 0.1 * stepped_on.T @ x / 4)
    torch.testing.assert_close(now[1].detach(), bias - 0.1 * stepped_on.sum(0) / 4)
    assert not unlock.waiting()
    assert not unlock.sent()


def test_a_layer_without_a_use_below_says_taken_and_a_lost_batch_is_no_step() -> None:
    layer = linear_layer(goes_down=False)
    unlock, before = unlock_of(layer, build_m(1.0)), layer.flat.parameters.clone()
    _, answer = unlock.forward(0, draw(1, 4, 6), draw(2, 4, 3))
    assert isinstance(answer, Taken)
    assert list(unlock.lost(0)) == []
    assert not unlock.waiting()
    assert torch.equal(layer.flat.parameters, before)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_linear_net_with_a_squared_loss_has_an_exact_m_whose_loss_adds_nothing(alpha: float) -> None:
    torch.manual_seed(3)
    above = nn.Linear(5, 3)
    module, h, y = exact_m(above, alpha), draw(7, 4, 5), draw(8, 4, 3)
    delta = true_delta(above, h, y)
    torch.testing.assert_close(module.propagate(h, y, delta), delta)


def test_m_of_a_linear_net_comes_to_be_exact_by_learning() -> None:
    torch.manual_seed(3)
    above = nn.Linear(5, 3)
    module, right = build_m(1.0), exact_m(above, 1.0)
    stepper = torch.optim.SGD(module.parameters(), 0.05)
    for step in range(400):
        h, y = draw(step, 32, 5), draw(10_000 + step, 32, 3)
        stepper.zero_grad()
        module.learn(h, y, true_delta(above, h, y))
        stepper.step()
    for found, due in zip(module.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(found, due, atol=2e-2, rtol=0)


def test_a_chain_steps_on_every_batch_once_and_the_lower_layers_wait_for_one_layer_alone() -> None:
    config = configured(gradient="sg+prop", gradient_options={"alpha": 0.1}, batches=12)
    chain = Chain(config, seed=5).run()
    assert [slave.layer.stepped for slave in chain.slaves] == [list(range(12))] * len(chain.slaves)
    # The answer of layer 2 for batch b comes before layer 3 has answered b.
    answers = [(message.layer, message.batch) for message in chain.sent if isinstance(message, Down)]
    assert len(answers) == 12 * (len(chain.slaves) - 1)
    assert any(answers.index((1, b)) < answers.index((2, b)) for b in range(12))
