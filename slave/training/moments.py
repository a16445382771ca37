"""State of a layer's optimizers as the state of a shard: k/optimizer, the layer's backup."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from common.errors import MalformedError
from common.optim.stepper import Stepper
from common.shards.table import Kind, Raw, lay_out


class Moments:
    """Moments and step counts of several steppers, gathered into a buffer for pushes.

    For the master these tensors are buffers, pushed by value; with several replicas the value is near their
    mean.

    Args:
        steppers: the steppers by the kind of their shard: weights, gradient, input.

    Attributes:
        table: weights.m0, ..., weights.count, gradient.m0, ...; empty if the optimizers have no state.
        buffer: uint8, (nbytes,), as of the last `gather` or `load`.
    """

    def __init__(self, steppers: Mapping[str, Stepper]) -> None:
        self._tensors = {
            f"{kind}.{name}": tensor
            for kind, stepper in steppers.items()
            for name, tensor in stepper.state().items()
        }
        buffer: Kind = "buffer"
        self.table = lay_out((n, "float32", tuple(t.shape), buffer) for n, t in self._tensors.items())
        device = next((tensor.device for tensor in self._tensors.values()), torch.device("cpu"))
        self.buffer = torch.zeros(self.table.nbytes, dtype=torch.uint8, device=device)

    def gather(self) -> None:
        """Copy the optimizers' state into the buffer."""
        for copy, tensor in self._copies():
            copy.copy_(tensor)

    def load(self, data: Raw) -> None:
        """Replace the optimizers' state by (nbytes,) bytes in the table's layout.

        Raises:
            MalformedError: `data` has another length than the table's.
        """
        source = np.frombuffer(data, np.uint8)
        if source.nbytes != self.table.nbytes:
            raise MalformedError(f"state has {source.nbytes} bytes, but its table has {self.table.nbytes}")
        self.buffer.copy_(torch.from_numpy(source.copy()))
        for copy, tensor in self._copies():
            tensor.copy_(copy)

    def _copies(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """List every tensor's view of the buffer, with the tensor."""
        numbers = self.buffer.view(torch.float32)
        copies = []
        for spec in self.table.tensors:
            start = spec.offset // 4
            view = numbers[start : start + spec.nbytes // 4].view(spec.shape)
            copies.append((view, self._tensors[spec.name]))
        return copies
