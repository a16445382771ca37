"""Form of the examples x of a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """Shape and numbers of x.

    Attributes:
        shape: of one example: (D,) for vectors, (C, H, W) for images, (T,) for tokens.
        vocabulary: number of different tokens, where x is int64; 0: x is float32.
    """

    shape: tuple[int, ...]
    vocabulary: int = 0

    @property
    def size(self) -> int:
        """Number of numbers of an example."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of an example."""
        return (8 if self.vocabulary else 4) * self.size

    def blank(self, batch_size: int) -> Tensor:
        """Return a batch of zeros in the form of x, (B, *shape), on torch's default device."""
        import torch

        return torch.zeros(batch_size, *self.shape, dtype=torch.int64 if self.vocabulary else torch.float32)
