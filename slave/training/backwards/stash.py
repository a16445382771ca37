"""`stash`: the graph of the forward, with the weights of the forward (PipeDream; Narayanan et al. 2019)."""

from __future__ import annotations

from torch import Tensor

from slave.training.backwards.stored import Stored
from slave.training.layer import Layer


class Stash(Stored):
    """Graphs with copies of the weights that a backward needs: the gradient is exact for the forward."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        weights = layer.flat.parameters
        self._weights = range(weights.data_ptr(), weights.data_ptr() + weights.nbytes)

    def save(self, tensor: Tensor) -> Tensor:
        """Return what the backward shall see of a tensor of any shape: a weight as it is now."""
        saved = super().save(tensor)
        return saved.clone() if tensor.data_ptr() in self._weights else saved


def build(layer: Layer) -> Stash:
    """Build the backward of a layer."""
    return Stash(layer)
