"""Steps of a flat module: the optimizer, and the learning rate of each batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from common.config.optimizer import SynthesizerOptimizerConfig
from common.config.optimizers import SCHEDULES
from common.optim.optimizers import Settings
from common.optim.steps import find_step
from common.shards.flat import Flat


def rate(settings: SynthesizerOptimizerConfig, batch: int, batches: int) -> float:
    """Return the learning rate at batch b of a run: a pure function of its arguments."""
    progress = min(batch / batches, 1.0)
    return SCHEDULES[settings.schedule].rate(settings.learning_rate, progress)


class Stepper:
    """Steps a flat module with the configured optimizer, whose moments are flat too.

    Attributes:
        steps: number of steps taken.
    """

    def __init__(self, flat: Flat, settings: SynthesizerOptimizerConfig, batches: int) -> None:
        self.steps = 0
        self._flat = flat
        self._settings = settings
        self._batches = batches
        self._optimizer = self._choose_optimizer(settings)
        self._step = find_step(self._optimizer.name)
        self._moments = [torch.zeros_like(flat.parameters) for _ in range(self._optimizer.moments)]
        self._split = [flat.split(moment) for moment in self._moments]
        self._count = torch.zeros((), device=flat.parameters.device)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the moments, (P,), and the number of steps; nothing for an optimizer without moments."""
        moments = {f"m{number}": moment for number, moment in enumerate(self._moments)}
        return {**moments, "count": self._count} if moments else {}

    def _choose_optimizer(self, s: SynthesizerOptimizerConfig) -> Settings:
        return Settings(s.name, s.learning_rate, s.momentum, s.nesterov, s.weight_decay)

    @torch.no_grad()
    def step(self, batch: int, examples: int = 1) -> None:
        """Step on the gradients with the rate of a batch, and clear them.

        Args:
            batch: number b of the batch.
            examples: number of examples that the gradients are summed over; the step is on their mean.
        """
        self.steps += 1
        self._count += 1
        # The fused step divides while reading, without a pass of its own.
        divisor = None if examples == 1 else self._count.new_full((), examples)
        weights, gradients = self._flat.learned, self._flat.gradients()
        now = rate(self._settings, batch, self._batches)
        if weights:
            self._step(self._optimizer, weights, gradients, self._split, self._count, now, divisor)
        self._flat.clear_gradients()


class AccruingStepper(Stepper):
    """Takes plain local steps, w -= rate * gradient, and sums up the gradients for the master's optimizer."""

    def __init__(self, flat: Flat, settings: SynthesizerOptimizerConfig, batches: int) -> None:
        super().__init__(flat, settings, batches)
        self._sum = torch.zeros_like(flat.parameters)
        self._sums = flat.split(self._sum)

    def _choose_optimizer(self, s: SynthesizerOptimizerConfig) -> Settings:
        return Settings("sgd", s.learning_rate)

    @torch.no_grad()
    def step(self, batch: int, examples: int = 1) -> None:
        """Step, and add the mean gradient to the sum."""
        for total, gradient in zip(self._sums, self._flat.gradients(), strict=True):
            total.add_(gradient, alpha=1 / examples)
        super().step(batch, examples)

    def take(self) -> npt.NDArray[np.float32]:
        """Return the sum since the last call, (P,)."""
        total: npt.NDArray[np.float32] = self._sum.cpu().numpy().copy()
        self._sum.zero_()
        return total
