"""What the optimizers of a layer remember, as the state of a shard: k/optimizer, the layer's backup."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from common.errors import MalformedError
from common.optim.stepper import Stepper
from common.shards.table import Kind, Raw, lay_out


class Moments:
    """The moments and step counts of some steppers, copied together where a replica reads its shard.

    They are buffers to the master, which holds their value; of several replicas, about their mean.

    Args:
        steppers: each with the kind of shard that it steps: weights, gradient, input.

    Attributes:
        table: weights.m0, ..., weights.count, gradient.m0, ...; empty where nothing is remembered.
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
        """Copy what is remembered into the buffer."""
        for copy, tensor in self._copies():
            copy.copy_(tensor)

    def load(self, data: Raw) -> None:
        """Remember another state, (nbytes,) bytes in the table's layout.

        Raises:
            MalformedError: another length than the table's.
        """
        source = np.frombuffer(data, np.uint8)
        if source.nbytes != self.table.nbytes:
            raise MalformedError(f"state of {source.nbytes} bytes where its table says {self.table.nbytes}")
        self.buffer.copy_(torch.from_numpy(source.copy()))
        for copy, tensor in self._copies():
            tensor.copy_(copy)

    def _copies(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each tensor's place in the buffer, and the tensor."""
        numbers = self.buffer.view(torch.float32)
        found = []
        for spec in self.table.tensors:
            start = spec.offset // 4
            place = numbers[start : start + spec.nbytes // 4].view(spec.shape)
            found.append((place, self._tensors[spec.name]))
        return found
