"""Layers without a use for a gradient: neither they nor the layers that they would send one to learn."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from common.errors import MalformedError
from common.signals.values import Signal, count
from common.wire.boundary import Message, Up
from slave.training.layer import Layer


def unwanted_gradient(k: int, batch: int) -> MalformedError:
    """Return the refusal of a gradient that came to a layer without a use for it."""
    return MalformedError(
        f"a gradient of batch {batch} came to layer {k}, where nothing learns; do all slaves have the same "
        "network?"
    )


class Fixed:
    """Unlock of a layer that computes h_k alone, without M or a head; no gradient comes from above."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._sent: dict[int, Signal] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:  # noqa: ARG002
        """Take h_{k-1}(b), send h_k(b), and confirm the batch to the layer below as taken."""
        with torch.no_grad():
            passed = self._layer.forward(batch, h_below)
        self._sent[batch] = passed.h
        yield Up(batch, passed.h)
        yield from self._layer.down(passed)

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:  # noqa: ARG002 - never called
        """Refuse a gradient: the sender has a different network.

        Raises:
            MalformedError: always.
        """
        raise unwanted_gradient(self._layer.k, batch)

    def lost(self, batch: int) -> Iterator[Message]:
        """Count a batch that was taken or lost above: a step that changes nothing, for the run's progress."""
        self._layer.step(batch, count(self._sent.pop(batch)))
        yield from ()

    def sent(self) -> dict[int, Signal]:
        """Return h_k of the batches without an answer, oldest first."""
        return dict(self._sent)

    def waiting(self) -> Collection[int]:
        """Return the batches without an answer: a successor sends them again."""
        return self._sent.keys()
