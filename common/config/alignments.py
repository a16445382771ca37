"""Registry of unlock `alignment`: ways of an error down to a layer that are fixed, and learned by nobody.

The code is in `slave.training.alignments`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.registry import Registry, Row


@dataclass(frozen=True, kw_only=True)
class AlignmentRow(Row):
    """Way of an error down.

    Attributes:
        broadcasts: whether layer K's dL/dp, the gradient in the network's output, goes to every layer; else
            each layer sends a gradient to the layer below, through fixed random weights.
        sums: whether the outputs' parts of dL/dp are added up.
    """

    broadcasts: bool = False
    sums: bool = False


ALIGNMENTS = Registry(
    AlignmentRow(
        name="feedback", help="FA: back-propagation, whose maps carry gradients down by fixed random weights"
    ),
    AlignmentRow(
        name="direct", help="DFA: the gradient in the network's output, times a fixed random matrix",
        broadcasts=True,
    ),
    AlignmentRow(
        name="kickback", help="the gradient in the network's output, added up over the outputs",
        broadcasts=True, sums=True,
    ),
)  # fmt: skip
