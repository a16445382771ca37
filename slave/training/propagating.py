"""Unlock `update` with an M whose loss teaches the layer, too (SG+prop; Czarnecki et al. 2017)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import Tensor

from common.signals.values import Signal, count, map_tensors
from common.wire.boundary import Message, Up
from slave.training.decoupling import Propagating, check_gradient
from slave.training.layer import Layer


@dataclass(frozen=True, eq=False)
class _Kept:
    """Input, state before, output, targets and M's prediction of a batch without its true gradient."""

    h_below: Signal
    before: Tensor | None
    h: Signal
    y: Tensor
    synthetic: Signal


class PropagatingUnlock:
    """Send M's gradient down at once; step on delta hat + alpha dL_SG/dh when the true gradient comes.

    The layer below waits for this layer alone, not for the layers above.

    Args:
        layer: the layer to step.
        synthesizer: M.
    """

    def __init__(self, layer: Layer, synthesizer: Propagating) -> None:
        self._layer = layer
        self._synthesizer = synthesizer
        self._kept: dict[int, _Kept] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b), send h_k(b) up, and down the gradient in h_{k-1}(b) of M_k(h_k(b), y)."""
        passed = self._layer.forward(batch, h_below, y)
        h = map_tensors(Tensor.detach, passed.h)
        yield Up(batch, h)
        synthetic = self._synthesizer.gradient(batch, h, y)
        self._kept[batch] = _Kept(h_below, passed.before, h, y, synthetic)
        yield from self._layer.down_alone(passed, synthetic)

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Step on a batch, forward again at the present weights; then M learns.

        Raises:
            MalformedError: delta is not in the form of h's floats.
        """
        kept = self._kept.pop(batch)
        check_gradient(delta, kept.h)
        passed = self._layer.forward_again(batch, kept.h_below, kept.before, kept.y)
        self._layer.backward(passed, self._synthesizer.propagate(kept.h, kept.y, delta))
        self._layer.step(batch, count(delta))
        self._synthesizer.learn(batch, kept.h, kept.y, kept.synthetic, delta)
        yield from ()

    def lost(self, batch: int) -> Iterator[Message]:
        """Forget a lost batch: the layer never steps on it. The layer below has its answer."""
        del self._kept[batch]
        yield from ()

    def sent(self) -> dict[int, Signal]:
        """Return h_k of the batches without a gradient, oldest first."""
        return {batch: kept.h for batch, kept in self._kept.items()}

    def waiting(self) -> Collection[int]:
        """Return the batches that the layer has not stepped on: those without a gradient."""
        return self._kept.keys()
