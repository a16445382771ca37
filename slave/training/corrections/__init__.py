"""Corrections of gradients that come after further steps.

Module NAME has the function `build` of the row NAME of `common.config.late.CORRECTIONS`.
"""

from __future__ import annotations

from common.registry import import_implementation
from common.signals.values import Signal


class Correction:
    """No correction, and the interface of all.

    The delay of a gradient, tau, is measured: the layer's own steps between the forward of a batch and the
    arrival of its gradient. It may differ from batch to batch and from layer to layer.
    """

    def correct(self, delta: Signal, sent: Signal, now: Signal, delay: int) -> Signal:  # noqa: ARG002
        """Return the gradient to go backward from.

        Args:
            delta: gradient that came, at `sent`; in the form of h's floats.
            sent: h_k(b) at the weights of its forward.
            now: h_k(b) at the weights of the backward, without a graph.
            delay: tau.
        """
        return delta


def build(name: str) -> Correction:
    """Build the correction of a name."""
    correction: Correction = import_implementation(__name__, name).build()
    return correction
