"""Lessons of M and heads: steps on parts of a batch that teaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from common.config.decoupling import count_parts
from common.optim.stepper import Stepper


def step_in_parts(stepper: Stepper, batch: int, steps: int, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the parts of a batch, and step on the gradients that each has left in the stepper's module.

    Args:
        stepper: of the module; it counts the steps of a batch as one, so that pushes do not become more.
        batch: number b of the batch.
        steps: wanted number of parts; their sizes differ by one example at most.
        values: tensors of the batch, (B, ...).
    """
    parts = count_parts(steps, len(values[0]))
    for number, part in enumerate(zip(*(value.tensor_split(parts) for value in values), strict=True), 1):
        yield part
        stepper.step(batch, counts=number == parts)


def teach(learn: Callable[..., Tensor], stepper: Stepper, batch: int, steps: int, *values: Tensor) -> Tensor:
    """Have M learn from the parts of a batch.

    Args:
        learn: leaves gradients of a part's mean loss in the stepper's module, and returns that loss.
        stepper: as of `step_in_parts`, and so the other arguments.
        batch: number b of the batch.
        steps: wanted number of parts.
        values: tensors of the batch, (B, ...).

    Returns:
        The mean loss of the examples, a scalar, each before the step of its part.
    """
    losses = [learn(*part) * len(part[0]) for part in step_in_parts(stepper, batch, steps, *values)]
    return torch.stack(losses).sum() / len(values[0])
