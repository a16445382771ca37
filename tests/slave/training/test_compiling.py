"""slave.training.compiling: compiling changes neither the results nor the state of a layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.config.optimizer import OptimizerConfig
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.values import plain
from slave.training.compiling import compile_layer
from slave.training.layer import Layer
from tests.integration.processes import COMPILES
from tests.slave.training.test_carried import B, recurrent_layer

SGD = OptimizerConfig(name="sgd", learning_rate=0.1)
SHAPE = (8, 2, 6, 6)

# The first call of the compiler takes 15 s.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMPILES, reason="no C++ compiler, or not Python's headers"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point torch's compile cache at an empty folder."""
    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def build_layer(*more: nn.Module) -> Layer:
    """Layer 2, convolutional and normalized."""
    torch.manual_seed(4)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), *more).train()
    flat = Flat(module)
    return Layer(2, flat, Stepper(flat, SGD, 10), seed=7)


def passed(layer: Layer, batch: int) -> Tensor:
    """Forward, backward and a step; the gradient in the input."""
    generator = torch.Generator().manual_seed(batch)
    forward = layer.forward(batch, torch.rand(SHAPE, generator=generator))
    u = plain(forward.u)
    layer.backward(forward, torch.rand(plain(forward.h).shape, generator=generator))
    layer.step(batch, len(u))
    assert u.grad is not None
    return u.grad


@pytest.mark.long
def test_compiling_leaves_a_layers_state_as_it_was(cache: Path) -> None:
    layer, untouched = build_layer(), build_layer()
    compile_layer(layer, torch.zeros(SHAPE))
    # Forward and backward have become C++.
    assert len(list(cache.rglob("*.cpp"))) >= 2
    assert torch.equal(layer.flat.buffer, untouched.flat.buffer)
    assert all(parameter.grad is None for parameter in layer.flat.learned)
    assert layer.flat.table == untouched.flat.table


def test_a_compiled_layer_steps_as_it_would_have() -> None:
    layer, eager = build_layer(), build_layer()
    compile_layer(layer, torch.zeros(SHAPE))
    for batch in range(5):
        torch.testing.assert_close(passed(layer, batch), passed(eager, batch), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.flat.parameters, eager.flat.parameters, rtol=1e-4, atol=1e-5)
    for name, statistic in layer.flat.module.named_buffers():
        torch.testing.assert_close(statistic, eager.flat.module.get_buffer(name), rtol=1e-4, atol=1e-5)


def test_what_a_compiled_forward_draws_is_its_batchs_alone() -> None:
    layer = build_layer(nn.Dropout(0.5))
    compile_layer(layer, torch.zeros(SHAPE))
    x = torch.rand(SHAPE)
    h, same, other = (layer.forward_again(batch, x).h for batch in (3, 3, 4))
    assert torch.equal(plain(h), plain(same))
    assert not torch.equal(plain(h), plain(other))


@pytest.mark.filterwarnings("error:Dynamo")
@pytest.mark.parametrize("early", [None, 0, 2], ids=["none", "dni", "aux"])
def test_a_compiled_recurrent_layer_carries_its_state_and_steps_as_it_would_have(early: int | None) -> None:
    layer, eager = recurrent_layer(early), recurrent_layer(early)
    compile_layer(layer, torch.zeros(B, 4, 3))
    for batch in range(3):
        x = torch.rand(B, 4, 3)
        for each in (layer, eager):
            each.backward(each.forward(batch, x), torch.ones(B, 4, 3))
            each.step(batch, B)
    torch.testing.assert_close(layer.flat.parameters, eager.flat.parameters, rtol=1e-4, atol=1e-5)
    assert layer.carried is not None
    assert eager.carried is not None
    assert layer.carried.lost == 0
    torch.testing.assert_close(layer.carried.kept(0), eager.carried.kept(0), rtol=1e-4, atol=1e-5)
