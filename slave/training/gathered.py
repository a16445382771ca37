"""Tensors of a slave that are backed up as the state of a shard, gathered into a buffer for pushes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from common.errors import MalformedError
from common.shards.table import Kind, Raw, lay_out
from common.signals.values import name_dtype


class Gathered:
    """Float tensors as buffers of a shard, which are pushed by value.

    Args:
        tensors: by name, on one device.

    Attributes:
        table: of the tensors; empty without tensors.
        buffer: uint8, (nbytes,), as of the last `gather` or `load`.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = dict(tensors)
        buffer: Kind = "buffer"
        self.table = lay_out((n, name_dtype(t), tuple(t.shape), buffer) for n, t in self._tensors.items())
        device = next((tensor.device for tensor in self._tensors.values()), torch.device("cpu"))
        self.buffer = torch.zeros(self.table.nbytes, dtype=torch.uint8, device=device)

    def gather(self) -> None:
        """Copy the tensors into the buffer."""
        for copy, tensor in self._copies():
            copy.copy_(tensor)

    def load(self, data: Raw) -> None:
        """Replace the tensors' values by (nbytes,) bytes in the table's layout.

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
        copies = []
        for spec in self.table.tensors:
            tensor = self._tensors[spec.name]
            view = self.buffer[spec.offset : spec.offset + spec.nbytes].view(tensor.dtype)
            copies.append((view.view(spec.shape), tensor))
        return copies
