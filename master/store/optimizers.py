"""Server optimizers: torch's fused steps on a shard's flat buffer, piece by piece.

Moments lie behind the tensors in the two buffers of a shard, so one commit covers parameters and moments of a
push. Torch is loaded with the first optimizer: a master that only adds updates runs without torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from common.optim.optimizers import Settings
from common.shards.pushes import Operation
from common.shards.table import Table

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Moments begin at a multiple of the widest register.
ALIGNMENT = 64


def room(table: Table, moments: int) -> int:
    """Size of a shard's buffer in bytes: the tensors, then `moments` numbers for each parameter."""
    return _start(table) + moments * table.parameters_nbytes if moments else table.nbytes


def _start(table: Table) -> int:
    return -(-table.nbytes // ALIGNMENT) * ALIGNMENT


def moments_of(table: Table, buffer: Bytes, moments: int, where: slice) -> list[Floats]:
    """Views of a shard's buffer that hold the moments of the parameters at bytes `where`."""
    starts = (_start(table) + each * table.parameters_nbytes for each in range(moments))
    return [buffer[start + where.start : start + where.stop].view(np.float32) for start in starts]


def use_one_thread() -> None:
    """Run torch's operations on the calling thread: pieces are small, and shards apply side by side."""
    import torch

    torch.set_num_threads(1)


class ServerOptimizer:
    """Applies accrued gradients as torch.optim's class does with fused=True.

    Results agree to the bit for pieces of whole registers (64 bytes), as slaves send, and else to a rounding.
    """

    operation = Operation.ACCRUED_GRADIENT

    def __init__(self, settings: Settings) -> None:
        import torch

        from common.optim.steps import find_step

        self.settings = settings
        self.moments = settings.moments
        self._torch: Any = torch
        self._step = find_step(settings.name)

    def apply(
        self, parameters: Floats, gradient: Floats, moments: list[Floats], steps: int, weight: float = 1.0
    ) -> None:
        """Take a step in place on consecutive parameters.

        Args:
            parameters: w, (n,).
            gradient: the accrued sum of (1/B) dL/dw, (n,); only read, though torch wants writable memory.
            moments: (n,) each; zeros before the first step.
            steps: number of earlier steps.
            weight: factor of the learning rate.
        """
        tensor = self._torch.from_numpy
        rate = self.settings.learning_rate * weight
        number = self._torch.tensor(float(steps + 1))
        remembered = [[tensor(each)] for each in moments]
        self._step(self.settings, [tensor(parameters)], [tensor(gradient)], remembered, number, rate)
