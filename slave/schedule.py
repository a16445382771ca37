"""Optimizers by name over a flat buffer, and the learning rate of each batch."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import torch

from common.config import SynthesizerOptimizer
from common.flat import Flat


def rate(settings: SynthesizerOptimizer, batch: int, batches: int) -> float:
    """The learning rate at batch b of a run: a pure function, so a replaced slave goes on where it was."""
    progress = min(batch / batches, 1.0)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - progress)
    return settings.learning_rate


class Stepper:
    """Steps a flat module with one of torch's optimizers, on its one flat parameter."""

    def __init__(self, flat: Flat, settings: SynthesizerOptimizer, batches: int) -> None:
        self._flat = flat
        self._settings = settings
        self._batches = batches
        self.steps = 0
        self._optimizer = _optimizer(flat.parameters, settings) if flat.parameters.numel() else None

    def step(self, batch: int) -> None:
        """Step on what the gradients hold, with the rate of that batch, and set them to zero."""
        self.steps += 1
        if self._optimizer is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = rate(self._settings, batch, self._batches)
            self._optimizer.step()
            self._flat.zero_gradients()


class AccruingStepper(Stepper):
    """Plain local steps, w -= rate * gradient, whose gradients are summed up for the master's optimizer."""

    def __init__(self, flat: Flat, settings: SynthesizerOptimizer, batches: int) -> None:
        super().__init__(flat, dataclasses.replace(settings, name="sgd", weight_decay=0.0), batches)
        self._sum = torch.zeros_like(flat.gradients)

    def step(self, batch: int) -> None:
        """Step, and add what was stepped on to the sum."""
        self._sum += self._flat.gradients
        super().step(batch)

    def take(self) -> npt.NDArray[np.float32]:
        """The sum since the last time it was taken, (P,)."""
        taken: npt.NDArray[np.float32] = self._sum.cpu().numpy().copy()
        self._sum.zero_()
        return taken


def _optimizer(parameters: torch.nn.Parameter, settings: SynthesizerOptimizer) -> torch.optim.Optimizer:
    lr, decay = settings.learning_rate, settings.weight_decay
    # One pass over memory instead of one for each operation.
    if settings.name == "adam":
        return torch.optim.Adam([parameters], lr, weight_decay=decay, fused=True)
    if settings.name == "adamw":
        return torch.optim.AdamW([parameters], lr, weight_decay=decay, fused=True)
    if settings.name == "adagrad":
        return torch.optim.Adagrad([parameters], lr, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        [parameters],
        lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=decay,
        fused=True,
    )
