"""`recompute`: forward again, at the present weights (DSP; Xu et al. 2020)."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from common.signals.values import Signal
from slave.training.layer import Forward, Layer


class Recompute:
    """Inputs, states of a recurrent layer before them, and targets of own losses, for a second forward."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._inputs: dict[int, tuple[Signal, Tensor | None, Tensor | None]] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor | None = None) -> Signal:
        """Compute h_k(b) without a graph, and keep the input."""
        with torch.no_grad():
            passed = self._layer.forward(batch, h_below, y)
        self._inputs[batch] = (h_below, passed.before, y)
        return passed.h

    def take(self, batch: int) -> Forward:
        """Give up a batch: repeat its forward at the present weights."""
        return self._layer.forward_again(batch, *self._inputs.pop(batch))

    def lose(self, batch: int) -> None:
        """Forget a batch."""
        del self._inputs[batch]

    def waiting(self) -> Collection[int]:
        """Return the batches that were neither taken nor lost."""
        return self._inputs.keys()


def build(layer: Layer) -> Recompute:
    """Build the backward of a layer."""
    return Recompute(layer)
