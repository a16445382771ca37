"""What a working copy works on: the state behind a shard, and gradients that accrue."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from common.shards.table import Raw, Table


class Accrued(Protocol):
    """Sum of (1/B) dL/dw over local steps."""

    def take(self) -> npt.NDArray[np.float32]:
        """Return the sum since the last call, (P,)."""


class State(Protocol):
    """State behind a shard: `Flat` of a module, or `Moments` of its optimizers.

    Attributes:
        table: layout of the buffer.
        buffer: uint8, (nbytes,).
    """

    table: Table
    buffer: Tensor

    def gather(self) -> None:
        """Bring the buffer up to date."""

    def load(self, data: Raw) -> None:
        """Overwrite the state."""
