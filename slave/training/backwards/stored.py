"""`stored`: the graph of the forward, at the present weights: old activations (the released code of FDG)."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from common.signals.values import Signal, map_tensors
from slave.training.layer import Forward, Layer


class Stored:
    """Graphs. What a graph saves is kept without torch's guard against steps in place, which are meant."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._graphs: dict[int, Forward] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor | None = None) -> Signal:
        """Compute h_k(b), and keep the graph."""
        with saved_tensors_hooks(self.save, _give_back):
            self._graphs[batch] = passed = self._layer.forward(batch, h_below, y)
        return map_tensors(Tensor.detach, passed.h)

    def save(self, tensor: Tensor) -> Tensor:
        """Return what the backward shall see of a tensor of any shape: a weight as it will be by then."""
        return tensor.detach()

    def take(self, batch: int) -> Forward:
        """Give up a batch: return its forward."""
        return self._graphs.pop(batch)

    def lose(self, batch: int) -> None:
        """Forget a batch."""
        del self._graphs[batch]

    def waiting(self) -> Collection[int]:
        """Return the batches that were neither taken nor lost."""
        return self._graphs.keys()


def _give_back(tensor: Tensor) -> Tensor:
    return tensor


def build(layer: Layer) -> Stored:
    """Build the backward of a layer."""
    return Stored(layer)
