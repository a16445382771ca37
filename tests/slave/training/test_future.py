"""slave.training.future: with an exact M in time a layer's windows are full back-propagation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from common.config.optimizer import OptimizerConfig
from common.data.streams import Streams
from common.data.windows import overlapping_windows
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.values import plain
from common.synthesizers.time.module import TimeModule
from common.synthesizers.time.regression import TimeSynthesizer
from slave.training.carried import Carried
from slave.training.compiling import compile_layer
from slave.training.future import Chains, Future
from slave.training.health import LOOK_EVERY, Health
from slave.training.layer import Layer
from tests.common.synthesizers.linear_core import LinearCore, back_propagate_all, exact

B = 3
RATE = 1e-12


def build_layer(core: LinearCore, steps: int, windows: int, *, future: bool = True) -> tuple[Layer, Health]:
    """Layer 1 of a linear recurrent net, with an exact M in time, that carries states over windows."""
    flat, health = Flat(nn.Sequential(core)), Health()
    module = TimeModule(exact(core, 0.1).float(), None)
    settings = OptimizerConfig(name="sgd", learning_rate=RATE)
    tokens = np.arange(steps * windows * B + steps)
    streams = Streams(overlapping_windows(tokens, steps, "text"), 0, B, 1)
    assert streams.batches_per_epoch == windows
    taught = Future(module, Stepper(Flat(module), settings, 10), health)
    stepper = Stepper(flat, settings, 10)
    carried = Carried(core.state_size, streams, B)
    return Layer(1, flat, stepper, carried=carried, future=taught if future else None), health


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@hypothesis_settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_with_an_exact_m_windows_give_the_gradient_of_full_back_propagation(
    late: bool, seed: int, size: int, steps: int, windows: int
) -> None:
    core = LinearCore(size, torch.Generator().manual_seed(seed))
    layer, health = build_layer(core, steps, windows)
    x = torch.zeros(B, steps, 1)
    for batch in range(windows):
        with torch.set_grad_enabled(not late):
            passed = layer.forward(batch, x)
        if late:
            passed = layer.forward_again(batch, x, passed.before)
            layer.backward(passed, 2 * (plain(passed.h).detach() - 1.5))
        else:
            layer.backward_loss(passed, (plain(passed.h) - 1.5).square().sum())
    by_windows = [gradient.clone() for gradient in layer.flat.gradients()]
    # Nothing is left to learn for the exact M.
    assert health.time_cosine == pytest.approx(1, abs=1e-3)
    assert health.time_norm_ratio == pytest.approx(1, abs=1e-3)

    # All of the future at once.
    layer.flat.clear_gradients()
    back_propagate_all(core, x.repeat(1, windows, 1), torch.zeros(B, size))
    for mine, true in zip(by_windows, layer.flat.gradients(), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-3, atol=1e-2)


def test_without_m_the_gradient_is_truncated() -> None:
    found = []
    for future in (False, True):
        layer, health = build_layer(LinearCore(2, torch.Generator().manual_seed(0)), 2, 2, future=future)
        passed = layer.forward(0, torch.zeros(B, 2, 1))
        layer.backward_loss(passed, (plain(passed.h) - 1.5).square().sum())
        found.append(torch.cat([gradient.flatten() for gradient in layer.flat.gradients()]))
        assert bool(health.time_loss) == future
    truncated, whole = found
    assert not torch.allclose(truncated, whole, rtol=0.1)


def test_the_mean_is_compared_every_eighth_time() -> None:
    health = Health()
    looked = [health.looks("time") for _ in range(LOOK_EVERY + 1)]
    assert [place for place, looks in enumerate(looked) if looks] == [0, LOOK_EVERY]
    target = torch.tensor([[3.0, 4.0]])
    health.learned_time(torch.tensor(2.0), 2 * target, target)
    assert (health.time_loss, health.time_norm_ratio) == (2, 2)
    assert health.time_cosine == pytest.approx(1)
    assert health.gradient_cosine == 0


def test_compiling_does_not_teach_m_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, health = build_layer(LinearCore(2, torch.Generator().manual_seed(0)), 2, 2)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    compile_layer(layer, torch.zeros(B, 2, 1))
    assert health.time_loss == 0
    assert not health._asked


def test_traces_of_a_group_begin_anew_at_an_epoch_and_behind_a_gap() -> None:
    streams = Streams(overlapping_windows(np.arange(2 * 2 * 4 * B + 2), 2, "text"), 0, B, 2)
    assert streams.batches_per_epoch == 8
    chains = Chains(TimeModule(TimeSynthesizer(2, []), None), 0.5, streams)
    first, other = chains.of(0), chains.of(1)
    assert first is not other
    assert (chains.of(2), chains.of(3), chains.of(4)) == (first, other, first)
    # Window 6 was lost, and windows 8 and 9 begin an epoch.
    assert chains.of(7) not in (first, other)
    again = chains.of(8)
    assert again is not first
    assert chains.of(9) is not other
    assert chains.of(10) is again
