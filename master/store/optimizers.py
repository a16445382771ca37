"""The master's optimizers: torch's own fused ones on a shard's flat buffer, piece by piece.

What they remember (moments) lies behind the table's bytes in the same two buffers: a commit makes parameters
and moments of one and the same push true. Torch is loaded when an optimizer is made, so that a master without
one runs without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from common.optim.optimizers import Settings
from common.shards.table import Table

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# A shard's moments begin at a multiple of this, the widest register.
_ALIGNMENT = 64


def room(table: Table, moments: int) -> int:
    """Bytes of each of a shard's buffers: its table's, and so many numbers more for each parameter."""
    return _start(table) + moments * table.parameters_nbytes if moments else table.nbytes


def _start(table: Table) -> int:
    return -(-table.nbytes // _ALIGNMENT) * _ALIGNMENT


def moments_of(table: Table, buffer: Bytes, moments: int, where: slice) -> list[Floats]:
    """An optimizer's moments of the parameters at bytes `where`, as views of a shard's buffer."""
    starts = (_start(table) + each * table.parameters_nbytes for each in range(moments))
    return [buffer[start + where.start : start + where.stop].view(np.float32) for start in starts]


def use_one_thread() -> None:
    """Keep torch's operations on the thread that calls them: pieces are small, shards apply side by side."""
    import torch

    torch.set_num_threads(1)


class ServerOptimizer:
    """Applies accrued gradients as torch.optim's class of that name does with fused=True.

    To the bit, where pieces are of whole registers (64 bytes), as slaves send them; else but for a rounding.
    """

    def __init__(self, settings: Settings) -> None:
        import torch

        from common.optim import fused

        self.settings = settings
        self.moments = settings.moments
        self._torch: Any = torch
        self._fused = fused

    def apply(
        self, parameters: Floats, gradient: Floats, moments: list[Floats], steps: int, weight: float = 1.0
    ) -> None:
        """One step in place on a run of parameters.

        Args:
            parameters: w, (n,).
            gradient: the accrued sum of (1/B) dL/dw, (n,); read only, though its memory must be writable.
            moments: what is remembered, (n,) each; zeros before the first step.
            steps: how many steps went before.
            weight: what the learning rate is multiplied by.
        """
        tensor = self._torch.from_numpy
        rate = self.settings.learning_rate * weight
        step = self._torch.tensor(float(steps + 1))
        remembered = [[tensor(each)] for each in moments]
        self._fused.step(self.settings, [tensor(parameters)], [tensor(gradient)], remembered, step, rate)
