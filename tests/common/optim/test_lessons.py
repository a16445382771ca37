"""Lessons in parts: each part is a step, on the examples of that part alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.config.decoupling import count_parts
from common.config.optimizer import SynthesizerOptimizerConfig
from common.optim.lessons import step_in_parts, teach
from common.optim.stepper import Stepper
from common.shards.flat import Flat

SGD = SynthesizerOptimizerConfig("sgd", 0.1)


def fitting(module: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    loss: Tensor = (module(x) - y).square().sum() / len(x)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@given(examples=st.integers(1, 40), steps=st.integers(1, 12))
def test_every_example_is_in_one_part_of_two_or_more(examples: int, steps: int) -> None:
    flat = Flat(nn.Linear(1, 1))
    values = torch.arange(examples), torch.arange(examples) * 2
    parts = list(step_in_parts(Stepper(flat, SGD, 10), 0, steps, *values))
    sizes = [len(first) for first, _ in parts]
    assert torch.cat([first for first, _ in parts]).tolist() == list(range(examples))
    assert all(torch.equal(second, first * 2) for first, second in parts)
    assert len(parts) == count_parts(steps, examples) <= steps
    assert min(sizes) >= min(2, examples)
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == steps or min(sizes) < 4  # as many parts as there may be


def test_a_part_is_a_step_and_a_batch_counts_as_one() -> None:
    module, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(module.state_dict())
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    stepper = Stepper(Flat(module), SGD, 10)
    mean = teach(lambda *part: fitting(module, *part), stepper, 0, 4, x, y)
    losses = []
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for part in range(4):
        losses.append(fitting(twin, x[2 * part : 2 * part + 2], y[2 * part : 2 * part + 2]))
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(module.weight, twin.weight)
    assert float(mean) == pytest.approx(float(sum(losses)) / 4)
    assert stepper.steps == 1


def test_adams_bias_is_corrected_by_the_steps_that_were_taken() -> None:
    module = nn.Linear(3, 2)
    stepper = Stepper(Flat(module), SynthesizerOptimizerConfig("adam", 0.1), 10)
    teach(lambda *part: fitting(module, *part), stepper, 0, 4, torch.randn(8, 3), torch.randn(8, 2))
    assert float(stepper.state()["count"]) == 4
