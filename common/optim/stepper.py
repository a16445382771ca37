"""Steps of a flat module: the optimizer, and the learning rate of each batch."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from common.config.optimizer import SynthesizerOptimizerConfig
from common.config.optimizers import DECAYS, OPTIMIZERS, SCHEDULES
from common.optim.optimizers import Settings
from common.optim.steps import Step, find_step
from common.shards.flat import Flat


def rate(settings: SynthesizerOptimizerConfig, batch: int, batches: int) -> float:
    """Return the learning rate at batch b of a run: a pure function of its arguments."""
    progress = min(batch / batches, 1.0)
    rate = SCHEDULES[settings.schedule].rate(settings.learning_rate, progress)
    return rate * min((batch + 1) / settings.warm_up, 1.0) if settings.warm_up else rate


class Adjustment(NamedTuple):
    """Changes to one step.

    Attributes:
        rate: factor of the learning rate.
        beta: decay of the first moment of an optimizer that heeds it (nadam); None: the optimizer's own.
    """

    rate: float = 1.0
    beta: float | None = None


UNCHANGED = Adjustment()


class Stepper:
    """Steps a flat module with the configured optimizer, whose moments are flat too.

    With `accumulate` = n, the gradients of n batches are summed before a step; fewer at the run's end, or at
    the slave's, are dropped.

    Attributes:
        steps: number of steps taken, but for those that do not count; pushes are due by it.
    """

    def __init__(self, flat: Flat, settings: SynthesizerOptimizerConfig, batches: int) -> None:
        self.steps = 0
        self._flat = flat
        self._settings = settings
        self._batches = batches
        self._optimizer = self._choose_optimizer(settings)
        self._moments = [torch.zeros_like(flat.parameters) for _ in range(self._optimizer.moments)]
        split = [flat.split(moment) for moment in self._moments]
        # Groups with their weights, and what is kept for these: moments, then sides.
        self._groups: list[tuple[Group, list[torch.Tensor], list[list[torch.Tensor]]]] = []
        for group in _groups(self._optimizer, settings.decayed, flat):
            weights = group.choose(flat.learned)
            kept = [*map(group.choose, split), *_sides(group, weights)]
            self._groups.append((group, weights, kept))
        self._count = torch.zeros((), device=flat.parameters.device)
        # Gradients that wait for a step, their batches and their examples.
        self._sums: list[torch.Tensor] = []
        self._waiting = self._examples = 0

    def state(self) -> dict[str, torch.Tensor]:
        """Return the moments, (P,), and the number of steps; nothing where no moment is kept."""
        moments = {f"m{number}": moment for number, moment in enumerate(self._moments)}
        sides = {
            f"s{place}.{number}": side
            for group, _, kept in self._groups
            for number, column in enumerate(kept[len(moments) :])
            for place, side in zip(group.places, column, strict=True)
            if side.numel()
        }
        return {**moments, **sides, "count": self._count} if moments and self._flat.learned else {}

    def _choose_optimizer(self, s: SynthesizerOptimizerConfig) -> Settings:
        return Settings(s.name, s.learning_rate, s.momentum, s.nesterov, s.weight_decay)

    @torch.no_grad()
    def step(
        self, batch: int, examples: int = 1, adjustment: Adjustment = UNCHANGED, *, counts: bool = True
    ) -> None:
        """Step on the gradients with the rate of a batch, and clear them.

        Args:
            batch: number b of the batch.
            examples: number of examples that the gradients are summed over; the step is on their mean.
            adjustment: changes to the step, if it is taken now.
            counts: whether `steps` counts the step.
        """
        self._add(self._flat.gradients())
        self._flat.clear_gradients()
        self._waiting, self._examples = self._waiting + 1, self._examples + examples
        if self._waiting < self._settings.accumulate:
            return
        gradients, examples = self._sums, self._examples
        self._sums, self._waiting, self._examples = [], 0, 0
        self.steps += counts
        self._count += 1
        if gradients:
            self._clip(gradients, examples)
            now = rate(self._settings, batch, self._batches) * adjustment.rate
            self._apply(gradients, examples, now, adjustment.beta)

    def _add(self, gradients: list[torch.Tensor]) -> None:
        if self._sums:
            torch._foreach_add_(self._sums, gradients)
        else:
            self._sums = gradients

    def _clip(self, gradients: list[torch.Tensor], examples: int) -> None:
        """Scale gradients summed over examples, so that their mean has at most the norm of `clip_norm`."""
        if self._settings.clip_norm is not None:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            factor = (self._settings.clip_norm * examples / norm).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)

    def _apply(self, gradients: list[torch.Tensor], examples: int, now: float, beta: float | None) -> None:
        """Step on gradients summed over examples, at a learning rate."""
        # The fused step divides while reading, without a pass of its own.
        divisor = None if examples == 1 else self._count.new_full((), examples)
        for group, weights, kept in self._groups:
            own = group.choose(gradients)
            settings = group.settings if beta is None else replace(group.settings, beta=beta)
            group.step(settings, weights, own, kept, self._count, now, divisor)


class AccruingStepper(Stepper):
    """Takes plain local steps, w -= rate * gradient, and sums up the gradients for the master's optimizer."""

    def __init__(self, flat: Flat, settings: SynthesizerOptimizerConfig, batches: int) -> None:
        super().__init__(flat, settings, batches)
        self._accrued = torch.zeros_like(flat.parameters)
        self._parts = flat.split(self._accrued)

    def _choose_optimizer(self, s: SynthesizerOptimizerConfig) -> Settings:
        return Settings("sgd", s.learning_rate)

    def _apply(self, gradients: list[torch.Tensor], examples: int, now: float, beta: float | None) -> None:
        """Step, and add the mean gradient to the sum."""
        for total, gradient in zip(self._parts, gradients, strict=True):
            total.add_(gradient, alpha=1 / examples)
        super()._apply(gradients, examples, now, beta)

    def take(self) -> npt.NDArray[np.float32]:
        """Return the sum since the last call, (P,)."""
        total: npt.NDArray[np.float32] = self._accrued.cpu().numpy().copy()
        self._accrued.zero_()
        return total


class Group(NamedTuple):
    """Weights of a module that one step function moves.

    Attributes:
        settings: numbers of the optimizer.
        step: the function.
        places: positions of the weights in `Flat.learned`.
    """

    settings: Settings
    step: Step
    places: tuple[int, ...]

    def choose(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Choose the group's tensors of a list with a tensor for each weight, shaped as the weight."""
        return tensors if len(tensors) == len(self.places) else [tensors[place] for place in self.places]


def _groups(settings: Settings, decayed: str, flat: Flat) -> list[Group]:
    """Group a module's weights by optimizer and weight decay."""
    found: dict[Settings, list[int]] = {}
    embeddings = {id(each.weight) for each in flat.module.modules() if isinstance(each, nn.Embedding)}
    others = OPTIMIZERS[settings.name].others
    for place, weight in enumerate(flat.learned):
        own = settings
        if others and (weight.ndim != 2 or id(weight) in embeddings):
            own = replace(own, name=others)
        if weight.ndim < DECAYS[decayed].dimensions:
            own = replace(own, weight_decay=0.0)
        found.setdefault(own, []).append(place)
    return [Group(own, find_step(own.name), tuple(places)) for own, places in found.items()]


def _sides(group: Group, weights: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Make the further tensors of a group's weights: a list for each number, aligned with the weights."""
    shapes = OPTIMIZERS[group.settings.name].sides
    by_weight = [[weight.new_zeros(shape) for shape in shapes(tuple(weight.shape))] for weight in weights]
    return [list(column) for column in zip(*by_weight, strict=True)]
