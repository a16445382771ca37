"""Unlock of layer K, which has the loss."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

from common.signals.values import Signal, plain
from common.tasks import Task
from common.wire.boundary import Message
from slave.training.health import Health
from slave.training.layer import Forward, Layer
from slave.training.scores import Scores


class Top:
    """Unlock of layer K, which steps on the gradient of the loss under every unlock below.

    Args:
        layer: the layer to step.
        health: record of the layer's learning.
        task: of the run.
        scores: takes the loss of each batch, on which the levels depend; None: examples do not become harder.
    """

    def __init__(self, layer: Layer, health: Health, task: Task, scores: Scores | None = None) -> None:
        self._layer = layer
        self._health = health
        self._task = task
        self._scores = scores

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        """Take h_{K-1}(b), send delta_{K-1}(b) down, and step."""
        passed = self._layer.forward(batch, h_below, y)
        output = self._output_of(passed)
        loss = self._task.total(output, y)
        yield from self._answer(passed, output, loss)
        self._layer.step(batch, len(y))
        self._health.lost(loss, len(y))
        if self._scores is not None:
            self._scores.note(batch, plain(passed.h).detach(), y)

    def _output_of(self, passed: Forward) -> Tensor:
        """Return the network's output, of which the loss is taken."""
        return plain(passed.h)

    def _answer(self, passed: Forward, output: Tensor, loss: Tensor) -> Iterator[Message]:  # noqa: ARG002
        """Go backward from the loss, and yield the answer for layer K - 1."""
        self._layer.backward_loss(passed, loss)
        yield from self._layer.down(passed)

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:  # noqa: ARG002 - never called
        """Raise: no layer above sends a gradient."""
        raise AssertionError(f"a gradient of batch {batch} came to the top layer")

    def lost(self, batch: int) -> Iterator[Message]:
        """Raise: no layer above loses a batch."""
        raise AssertionError(f"batch {batch} was lost above the top layer")

    def sent(self) -> Mapping[int, Signal]:
        """Return no batch: no answer comes from above."""
        return {}

    def waiting(self) -> Collection[int]:
        """Return no batch: layer K steps at once."""
        return ()
