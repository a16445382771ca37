"""`direct` (DFA; Nøkland 2016): delta_k = (dL/dp) A_k^T, with a fixed random matrix A_k."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.draws import mix
from common.models.feedback import draw_like
from common.signals.packing import Packing
from common.signals.values import Signal
from common.synthesizers.base import has_positions
from slave.training.broadcast import ProjectedUnlock
from slave.training.parts import Parts


class RandomProjection:
    """Product with A_k^T, a function of (seed, k).

    Where h_k has a row for each position of the output, one A_k of (outputs, numbers of a row) serves all
    positions; else A_k maps all outputs to all numbers of h_k.

    Args:
        packing: of h_k.
        outputs: shape of an example of the network's output.
        positions: whether h_k has a row for each position of the output.
        seed: of the matrix.
        device: of the layer.
    """

    def __init__(
        self,
        packing: Packing,
        outputs: tuple[int, ...],
        *,
        positions: bool,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self._packing = packing
        self._positions = positions
        shape, ends = (packing.shape[1:], outputs[1:]) if positions else (packing.shape, outputs)
        # Drawn as the weights of a linear map from h_k to the output.
        self.matrix = draw_like(torch.empty(math.prod(ends), math.prod(shape), device="meta"), seed).to(
            device
        )

    def __call__(self, error: Tensor) -> Signal:
        """Return the gradient in the floats of h_k."""
        rows = error.flatten(0, 1) if self._positions else error.flatten(1)
        return self._packing.unpack((rows @ self.matrix).view(len(error), *self._packing.shape))


def build(parts: Parts) -> ProjectedUnlock:
    """Build the unlock of a layer below the top."""
    packing, (outputs,) = Packing(parts.above), [each.shape for each in parts.output.tensors.values()]
    projection = RandomProjection(
        packing,
        outputs,
        positions=has_positions(packing.shape, parts.task),
        seed=mix(parts.config.run.seed, parts.layer.k, 0, 1),
        device=parts.layer.flat.buffer.device,
    )
    return ProjectedUnlock(parts.layer, projection, parts.output)
