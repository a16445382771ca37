"""Backwards of batches whose gradient comes after further steps.

Module NAME has the function `build` of the row NAME of `common.config.late.BACKWARDS`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from torch import Tensor

from common.registry import import_implementation
from common.signals.values import Signal
from slave.training.layer import Forward, Layer


class Backward(Protocol):
    """Batches that went forward and wait for a backward, with what the backward needs."""

    def forward(self, batch: int, h_below: Signal, y: Tensor | None = None) -> Signal:
        """Compute h_k(b), without a graph, and keep what the backward needs; y, (B, ...), as of `Layer`."""

    def take(self, batch: int) -> Forward:
        """Give up a batch: return the pass to go backward through."""

    def lose(self, batch: int) -> None:
        """Forget a batch."""

    def waiting(self) -> Collection[int]:
        """Return the batches that were neither taken nor lost."""


def build(name: str, layer: Layer) -> Backward:
    """Build the backward of a name."""
    backward: Backward = import_implementation(__name__, name).build(layer)
    return backward
