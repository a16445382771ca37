"""`delayed`: step on true gradients, late (FDG; Zhuang et al. 2019/2021)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor

from common.signals.values import Signal, count, map_tensors
from common.wire.boundary import Lost, Message, Up
from slave.training import backwards, corrections
from slave.training.backwards import Backward
from slave.training.backwards.recompute import Recompute
from slave.training.corrections import Correction
from slave.training.decoupling import check_gradient
from slave.training.layer import Layer
from slave.training.parts import Parts


class Late:
    """Batches that went forward and wait for their true gradient, while the weights are stepped.

    Args:
        layer: the layer to step.
        backward: keeps what a backward needs.
        correction: of gradients that come late.
        shrink: beta, the factor of every gradient from above, and hence of the gradient sent down.
    """

    def __init__(
        self,
        layer: Layer,
        backward: Backward | None = None,
        correction: Correction | None = None,
        shrink: float = 1.0,
    ) -> None:
        self._layer = layer
        self._backward = backward or Recompute(layer)
        self._correction = correction or Correction()
        self._shrink = shrink
        # Number of the layer's steps before the forward of each batch.
        self._steps: dict[int, int] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor | None = None) -> Signal:
        """Compute h_k(b), without a graph; `y`, (B, ...), as of `Layer.forward`."""
        self._steps[batch] = self._layer.steps
        with self._correction.forward(self._layer.flat):
            return self._backward.forward(batch, h_below, y)

    def step(self, batch: int, sent: Signal, delta: Signal) -> Iterator[Message]:
        """Go backward from beta delta_k(b), corrected; send delta_{k-1}(b), and step.

        Args:
            batch: b.
            sent: h_k(b), as `forward` returned.
            delta: delta_k(b).
        """
        delay = self._layer.steps - self._steps.pop(batch)
        passed = self._backward.take(batch)
        if self._shrink != 1:
            delta = map_tensors(lambda each: self._shrink * each, delta)
        now = map_tensors(Tensor.detach, passed.h)
        delta = self._correction.correct(delta, sent, now, delay)
        with self._correction.backward(self._layer.flat, delay):
            self._layer.backward(passed, delta)
        yield from self._layer.down(passed)
        with self._correction.step(self._layer.flat, delay):
            self._layer.step(batch, count(delta), self._correction.adjust(batch, delay))

    def lose(self, batch: int) -> Iterator[Message]:
        """Forget a lost batch, and report the loss to the layer below."""
        del self._steps[batch]
        self._backward.lose(batch)
        if self._layer.k > 1:
            yield Lost(batch)

    def waiting(self) -> Collection[int]:
        """Return the batches without a gradient."""
        return self._backward.waiting()


class DelayedUnlock:
    """Unlock `delayed`: send h_k(b) up at once, step when delta_k(b) comes, up to 2(K - k) batches later."""

    def __init__(self, late: Late) -> None:
        self._late = late
        self._sent: dict[int, Signal] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b) and send h_k(b)."""
        self._sent[batch] = self._late.forward(batch, h_below, y)
        yield Up(batch, self._sent[batch])

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Step on delta_k(b), and send delta_{k-1}(b) down.

        Raises:
            MalformedError: delta is not in the form of h's floats.
        """
        sent = self._sent.pop(batch)
        yield from self._late.step(batch, sent, check_gradient(delta, sent))

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
    chosen, layer = parts.config.decoupling, parts.layer
    backward = backwards.build(chosen.backward, layer)
    return DelayedUnlock(Late(layer, backward, corrections.build(parts.config), chosen.shrink))
