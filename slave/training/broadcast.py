"""Layers that learn from the gradient in the network's output, dL/dp, by a fixed projection of their own.

Layer K sends dL/dp to every layer. A message that is lost does no harm: the answer to an activation carries
dL/dp as well, and each layer answers as soon as it has heard. A layer goes backward to no input.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor

from common.signals.forms import SignalForm
from common.signals.values import Signal, count, plain
from common.wire.boundary import Down, Lost, Message, OutputGradient, Taken, Up
from slave.training.admission import check_form
from slave.training.backwards.recompute import Recompute
from slave.training.layer import Forward, Layer
from slave.training.top import Top

# Maps dL/dp, (B, ...), to the gradient in the floats of h_k.
Projection = Callable[[Tensor], Signal]


def answer_below(layer: Layer, batch: int, error: Tensor) -> Iterator[Message]:
    """Yield the answer for layer k - 1: dL/dp, (B, ...), where anything below learns, else `Taken`."""
    if layer.teaches_below:
        yield Down(batch, error)
    elif layer.k > 1:
        yield Taken(batch)


class BroadcastingTop(Top):
    """Layer K, which sends dL/dp down before the backward."""

    def _output_of(self, passed: Forward) -> Tensor:
        """Return the output as a leaf, for a layer K that learns nothing, too."""
        return plain(passed.h).detach().requires_grad_()

    def _answer(self, passed: Forward, output: Tensor, loss: Tensor) -> Iterator[Message]:
        """Yield dL/dp, and go backward from it."""
        (error,) = torch.autograd.grad(loss, output)
        yield OutputGradient(passed.batch, error)
        yield from answer_below(self._layer, passed.batch, error)
        self._layer.backward(passed, error)


class ProjectedUnlock:
    """Send h_k(b) up at once; step, forward again at the present weights, when dL/dp of batch b comes.

    Args:
        layer: the layer to step.
        project: gives the layer's gradient.
        output: form of the network's output.
    """

    def __init__(self, layer: Layer, project: Projection, output: SignalForm) -> None:
        self._layer = layer
        self._project = project
        self._output = output
        self._backward = Recompute(layer)
        self._sent: dict[int, Signal] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b) and send h_k(b)."""
        self._sent[batch] = self._backward.forward(batch, h_below, y)
        yield Up(batch, self._sent[batch])

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Take the answer from above, dL/dp: step, unless layer K was heard before."""
        if batch in self.waiting():
            yield from self.hear(batch, delta)
        del self._sent[batch]

    def hear(self, batch: int, error: Signal) -> Iterator[Message]:
        """Pass dL/dp on, and step."""
        check_form(error, self._output, count(self._sent[batch]), "gradient", f"of batch {batch}")
        error = plain(error)
        yield from answer_below(self._layer, batch, error)
        self._layer.backward(self._backward.take(batch), self._project(error))
        self._layer.step(batch, len(error))

    def lost(self, batch: int) -> Iterator[Message]:
        """Forget a batch lost above; report the loss to the layer below unless layer K was heard before."""
        del self._sent[batch]
        if batch not in self.waiting():
            return
        self._backward.lose(batch)
        if self._layer.k > 1:
            yield Lost(batch)

    def sent(self) -> dict[int, Signal]:
        """Return h_k of the batches without an answer, oldest first."""
        return dict(self._sent)

    def waiting(self) -> Collection[int]:
        """Return the batches that the layer has not stepped on: those without dL/dp."""
        return self._backward.waiting()
