"""`none`: back-propagation across slaves, the baseline."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor

from common.signals.values import Signal, count, map_tensors
from common.wire.boundary import Lost, Message, Up
from slave.training.decoupling import check_gradient
from slave.training.layer import Forward, Layer
from slave.training.parts import Parts


class NoUnlock:
    """Unlock `none`: one batch at a time passes through the network, with true gradients."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._graphs: dict[int, Forward] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b), send h_k(b), and wait for the gradient."""
        self._graphs[batch] = passed = self._layer.forward(batch, h_below, y)
        yield Up(batch, map_tensors(Tensor.detach, passed.h))

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Go backward from delta_k(b), send delta_{k-1}(b) down, and step.

        Raises:
            MalformedError: delta is not in the form of h's floats.
        """
        passed = self._graphs.pop(batch)
        self._layer.backward(passed, check_gradient(delta, passed.h))
        yield from self._layer.down(passed)
        self._layer.step(batch, count(delta))

    def lost(self, batch: int) -> Iterator[Message]:
        """Forget a lost batch, and report the loss to the layer below."""
        del self._graphs[batch]
        if self._layer.k > 1:
            yield Lost(batch)

    def sent(self) -> dict[int, Signal]:
        """Return h_k of the batches without a gradient, oldest first."""
        return {batch: map_tensors(Tensor.detach, passed.h) for batch, passed in self._graphs.items()}

    def waiting(self) -> Collection[int]:
        """Return the batches that the layer has not stepped on: those without a gradient."""
        return self._graphs


def build(parts: Parts) -> NoUnlock:
    """Build the unlock of a layer below the top."""
    return NoUnlock(parts.layer)
