"""The steps of a flat module: which optimizer, and the learning rate of each batch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from common.config.sections import SynthesizerOptimizer
from common.optim import fused
from common.optim.optimizers import Settings
from common.shards.flat import Flat

# 150, 225 and 275 of 300 epochs, as FDG's and many published figures were trained.
MILESTONES = (1 / 2, 3 / 4, 11 / 12)


def rate(settings: SynthesizerOptimizer, batch: int, batches: int) -> float:
    """The learning rate at batch b of a run: a pure function, so a replaced slave goes on where it was."""
    progress = min(batch / batches, 1.0)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - progress)
    if settings.schedule == "steps":
        return settings.learning_rate / math.pow(10, sum(progress >= each for each in MILESTONES))
    return settings.learning_rate


class Stepper:
    """Steps a flat module with the configured optimizer, whose moments are flat too.

    Attributes:
        steps: how many were taken.
    """

    def __init__(self, flat: Flat, settings: SynthesizerOptimizer, batches: int) -> None:
        self.steps = 0
        self._flat = flat
        self._settings = settings
        self._batches = batches
        self._fused = self._optimizer(settings)
        self._moments = [torch.zeros_like(flat.parameters) for _ in range(self._fused.moments)]
        self._split = [flat.split(moment) for moment in self._moments]
        self._count = torch.zeros((), device=flat.parameters.device)

    def remembered(self) -> dict[str, torch.Tensor]:
        """The moments, (P,) each, and how many steps they have seen; nothing where there are no moments."""
        moments = {f"m{number}": moment for number, moment in enumerate(self._moments)}
        return {**moments, "count": self._count} if moments else {}

    def _optimizer(self, s: SynthesizerOptimizer) -> Settings:
        return Settings(s.name, s.learning_rate, s.momentum, s.nesterov, s.weight_decay)

    @torch.no_grad()
    def step(self, batch: int, examples: int = 1) -> None:
        """Step on the gradients with the rate of that batch, and clear them.

        Args:
            batch: whose rate it is.
            examples: so many the gradients are a sum over; the step is on their mean.
        """
        self.steps += 1
        self._count += 1
        # The fused step divides as it reads: no pass of its own.
        divisor = None if examples == 1 else self._count.new_full((), examples)
        weights, gradients = self._flat.learned, self._flat.gradients()
        now = rate(self._settings, batch, self._batches)
        fused.step(self._fused, weights, gradients, self._split, self._count, now, divisor)
        self._flat.clear_gradients()


class AccruingStepper(Stepper):
    """Plain local steps, w -= rate * gradient, whose gradients are summed up for the master's optimizer."""

    def __init__(self, flat: Flat, settings: SynthesizerOptimizer, batches: int) -> None:
        super().__init__(flat, settings, batches)
        self._sum = torch.zeros_like(flat.parameters)
        self._sums = flat.split(self._sum)

    def _optimizer(self, s: SynthesizerOptimizer) -> Settings:
        return Settings("sgd", s.learning_rate)

    @torch.no_grad()
    def step(self, batch: int, examples: int = 1) -> None:
        """Step, and add what was stepped on to the sum."""
        for total, gradient in zip(self._sums, self._flat.gradients(), strict=True):
            total.add_(gradient, alpha=1 / examples)
        super().step(batch, examples)

    def take(self) -> npt.NDArray[np.float32]:
        """The sum since the last time it was taken, (P,)."""
        taken: npt.NDArray[np.float32] = self._sum.cpu().numpy().copy()
        self._sum.zero_()
        return taken
