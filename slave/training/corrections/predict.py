"""`predict`: forward at the weights that are expected by the time of the step.

SpecTrain (Chen et al. 2018) and XPipe (Guan et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from common.config.sections import Config
from common.shards.flat import Flat
from slave.training.corrections import Correction


class Predict(Correction):
    """Goes forward at w + tau (w - w of the step before), with tau the delay of the latest gradient.

    The published rules take the optimizer's own direction, and a constant tau of the stage; the latest step
    is that direction for every optimizer with momentum.
    """

    def __init__(self) -> None:
        self._moved: Tensor | None = None
        self._delay = 0

    def forward(self, flat: Flat) -> AbstractContextManager[None]:
        """Go forward at the predicted weights."""
        return flat.shift(self._moved, self._delay) if self._moved is not None else nullcontext()

    @contextmanager
    def step(self, flat: Flat, delay: int) -> Iterator[None]:
        """Remember a step and its delay."""
        before = flat.parameters.clone()
        yield
        with torch.no_grad():
            self._moved, self._delay = flat.parameters - before, delay


def build(config: Config) -> Predict:  # noqa: ARG001 - every correction is built so
    """Build the correction."""
    return Predict()
