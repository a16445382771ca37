"""`kickback` (Balduzzi et al. 2015): delta_k = (dL/dp) 1^T, the sum over the outputs, for every number."""

from __future__ import annotations

from torch import Tensor

from common.signals.packing import Packing
from common.signals.values import Signal
from common.synthesizers.base import has_positions
from slave.training.broadcast import ProjectedUnlock
from slave.training.parts import Parts


class SumProjection:
    """Sum of dL/dp over the outputs, at each position alone where h_k has a row for each.

    Args:
        packing: of h_k.
        positions: whether h_k has a row for each position of the output.
    """

    def __init__(self, packing: Packing, *, positions: bool) -> None:
        self._packing = packing
        self._positions = positions

    def __call__(self, error: Tensor) -> Signal:
        """Return the gradient in the floats of h_k."""
        shape = self._packing.shape
        total = error.sum(2, keepdim=True) if self._positions else error.flatten(1).sum(1)
        spread = total if self._positions else total.view(-1, *[1] * len(shape))
        return self._packing.unpack(spread.expand(len(error), *shape).contiguous())


def build(parts: Parts) -> ProjectedUnlock:
    """Build the unlock of a layer below the top."""
    packing = Packing(parts.above)
    projection = SumProjection(packing, positions=has_positions(packing.shape, parts.task))
    return ProjectedUnlock(parts.layer, projection, parts.output)
