"""Steps of the optimizers: torch's fused operations on lists of tensors, without `torch.optim`.

The classes of `torch.optim` group tensors at every step, and import torch's compiler (over a second) when
made. Module NAME has the function `step` of the optimizer NAME of `common.config.optimizers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from common.optim.optimizers import Settings
from common.registry import import_implementation

Tensors = list[Tensor]


class Step(Protocol):
    """Step in place, equal to the step of torch.optim's class of that name with fused=True."""

    def __call__(
        self,
        settings: Settings,
        weights: Tensors,
        gradients: Tensors,
        moments: Sequence[Tensors],
        steps: Tensor,
        rate: float,
        divisor: Tensor | None = None,
    ) -> None:
        """Step on the gradients, and update the moments.

        Args:
            settings: numbers of the optimizer; its learning rate is not used.
            weights: at least one, float32.
            gradients: of the weights; overwritten where there is a divisor.
            moments: memory of the optimizer, shaped as the weights; zeros before the first step. Further
                lists have the tensors of the row's `sides`.
            steps: number of this step, from 1: a float32 scalar on the weights' device.
            rate: the learning rate.
            divisor: of the gradients, a float32 scalar on the weights' device.
        """


def find_step(name: str) -> Step:
    """Return the step function of an optimizer."""
    step: Step = import_implementation(__name__, name).step
    return step
