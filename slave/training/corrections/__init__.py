"""Corrections of gradients that come after further steps.

Module NAME has the function `build` of the row NAME of `common.config.late.CORRECTIONS`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from common.config.sections import Config
from common.optim.stepper import UNCHANGED, Adjustment
from common.registry import import_implementation
from common.shards.flat import Flat
from common.signals.values import Signal


class Correction:
    """No correction, and the interface of all.

    The delay of a gradient, tau, is measured: the layer's own steps between the forward of a batch and the
    arrival of its gradient. It may differ from batch to batch and from layer to layer.

    Every method that takes them: `flat` is the layer's module with its weights in one buffer, `delay` tau, in
    steps, and `batch` the number of the batch.
    """

    def forward(self, flat: Flat) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a context within which the module has the weights for a forward that sends h up."""
        return nullcontext()

    def correct(self, delta: Signal, sent: Signal, now: Signal, delay: int) -> Signal:  # noqa: ARG002
        """Return the gradient to go backward from.

        Args:
            delta: gradient that came, at `sent`; in the form of h's floats.
            sent: h_k(b) as it was sent.
            now: h_k(b) of the backward's activations, without a graph.
            delay: tau.
        """
        return delta

    def backward(self, flat: Flat, delay: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a context within which the module has the weights for a backward."""
        return nullcontext()

    def adjust(self, batch: int, delay: int) -> Adjustment:  # noqa: ARG002
        """Return the changes of rate and momentum for the step on a gradient."""
        return UNCHANGED

    def step(self, flat: Flat, delay: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a context around the step on a gradient, which may look at the weights before and after."""
        return nullcontext()


def build(config: Config) -> Correction:
    """Build the configured correction."""
    correction: Correction = import_implementation(__name__, config.decoupling.correction).build(config)
    return correction
