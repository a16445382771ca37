"""`pipemare`: smaller steps early in a run, the forward's weights guessed (PipeMare; Yang et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from common.config.late import BACKWARDS
from common.config.sections import Config
from common.optim.stepper import Adjustment
from common.shards.flat import Flat
from slave.training.corrections import Correction

# The part of a run in which the rate rises to the schedule's, and the decay over tau steps of the mean step:
# the paper's D.
ANNEALING, DECAY = 1 / 4, 0.135


def slow(delay: int, batch: int, batches: int) -> float:
    """Return the factor of the rate: tau^-(1 - min(b / (batches / 4), 1)), and 1 without a delay (T1)."""
    if delay <= 1:
        return 1.0
    return float(delay ** -(1 - min(batch / (ANNEALING * batches), 1.0)))


class PipeMare(Correction):
    """Divides the rate by tau early in a run; where a graph meets newer weights, guesses the older ones.

    The guess is w - tau v, with v the mean of the layer's steps, whose decay over tau steps is D (T2). The
    paper's delay is a constant of the stage; here it is that of each gradient. Where activations and weights
    agree (recompute, stash) there is nothing to guess. The paper's warm-up in step (T3) is left out.
    """

    def __init__(self, batches: int, *, guesses: bool) -> None:
        self._batches = batches
        self._guesses = guesses
        self._mean: Tensor | None = None

    def adjust(self, batch: int, delay: int) -> Adjustment:
        """Slow a late step down."""
        return Adjustment(slow(delay, batch, self._batches))

    def backward(self, flat: Flat, delay: int) -> AbstractContextManager[None]:
        """Go backward at the weights that the forward is guessed to have had."""
        return flat.shift(self._mean, -delay) if self._mean is not None and delay else nullcontext()

    @contextmanager
    def step(self, flat: Flat, delay: int) -> Iterator[None]:
        """Take a step into the mean."""
        if not self._guesses:
            yield
            return
        before = flat.parameters.clone()
        yield
        with torch.no_grad():
            moved = flat.parameters - before
            decay = DECAY ** (1 / max(delay, 1))
            self._mean = moved if self._mean is None else self._mean.lerp_(moved, 1 - decay)


def build(config: Config) -> PipeMare:
    """Build the correction."""
    row = BACKWARDS[config.decoupling.backward]
    return PipeMare(config.run.batches, guesses=row.mixes)
