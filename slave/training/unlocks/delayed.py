"""`delayed`: step on true gradients, late (FDG; Zhuang et al. 2019/2021)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from common.signals.values import Signal, count, map_tensors
from common.wire.boundary import Lost, Message, Up
from slave.training.decoupling import Layer, check_gradient
from slave.training.parts import Parts


class Late:
    """Batches that went forward and wait for their true gradient.

    Until a gradient comes, the weights are stepped, so the graph of the first forward is useless: a backward
    would mix old activations with the present weights. Only the input, and the state of a recurrent layer
    before it, are kept for a second forward.

    Args:
        layer: the layer to step.
        shrink: beta, the factor of every gradient from above, and hence of the gradient sent down.
    """

    def __init__(self, layer: Layer, shrink: float = 1.0) -> None:
        self._layer = layer
        self._shrink = shrink
        self._inputs: dict[int, tuple[Signal, Tensor | None]] = {}

    def forward(self, batch: int, h_below: Signal) -> Signal:
        """Compute h_k(b) without a graph, and keep the input."""
        with torch.no_grad():
            passed = self._layer.forward(batch, h_below)
        self._inputs[batch] = (h_below, passed.before)
        return passed.h

    def step(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Recompute h at the present weights, go backward from beta delta_k(b), send delta_{k-1}(b), step."""
        passed = self._layer.forward_again(batch, *self._inputs.pop(batch))
        if self._shrink != 1:
            delta = map_tensors(lambda each: self._shrink * each, delta)
        self._layer.backward(passed, delta)
        yield from self._layer.down(passed)
        self._layer.step(batch, count(delta))

    def lose(self, batch: int) -> Iterator[Message]:
        """Forget a lost batch, and report the loss to the layer below."""
        del self._inputs[batch]
        if self._layer.k > 1:
            yield Lost(batch)

    def waiting(self) -> Collection[int]:
        """Return the batches without a gradient."""
        return self._inputs.keys()


class DelayedUnlock:
    """Unlock `delayed`: send h_k(b) up at once, step when delta_k(b) comes, 2(K - k) batches later."""

    def __init__(self, layer: Layer, shrink: float) -> None:
        self._late = Late(layer, shrink)
        self._sent: dict[int, Signal] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:  # noqa: ARG002
        """Take h_{k-1}(b) and send h_k(b)."""
        self._sent[batch] = self._late.forward(batch, h_below)
        yield Up(batch, self._sent[batch])

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Step on delta_k(b) at the present weights, and send delta_{k-1}(b) down."""
        yield from self._late.step(batch, check_gradient(delta, self._sent.pop(batch)))

    def lost(self, batch: int) -> Iterator[Message]:
        """Forget a lost batch: the layer never steps on it."""
        del self._sent[batch]
        yield from self._late.lose(batch)

    def sent(self) -> dict[int, Signal]:
        """Return h_k of the batches without a gradient, oldest first."""
        return dict(self._sent)

    def waiting(self) -> Collection[int]:
        """Return the batches that the layer has not stepped on: those without a gradient."""
        return self._late.waiting()


def build(parts: Parts) -> DelayedUnlock:
    """Build the unlock of a layer below the top."""
    return DelayedUnlock(parts.layer, parts.config.decoupling.shrink)
