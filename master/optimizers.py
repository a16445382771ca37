"""The master's optimizers: torch's own fused ones on a shard's flat buffer, piece by piece.

What they remember (moments) lies behind the table's bytes in the same two buffers: a commit makes parameters
and moments of one and the same push true. Torch is loaded when an optimizer is made, so that a master without
one runs without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from common.table import Table

if TYPE_CHECKING:
    from torch import Tensor

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Step = Callable[["Tensor", "Tensor", "list[Tensor]", "Tensor", float], None]

# A shard's moments begin at a multiple of this, the widest register.
_ALIGNMENT = 64

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
ADAGRAD_EPSILON = 1e-10


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


@dataclass(frozen=True)
class Settings:
    """Which optimizer, and its numbers, as torch.optim's classes take them."""

    name: str = "adagrad"
    learning_rate: float = 0.05
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    @property
    def moments(self) -> int:
        """Numbers that it remembers for each parameter."""
        return {"adagrad": 1, "sgd": int(self.momentum > 0), "adam": 2, "adamw": 2}[self.name]


class ServerOptimizer:
    """Applies accrued gradients as torch.optim's class of that name does with fused=True.

    To the bit, where pieces are of whole registers (64 bytes), as slaves send them; else but for a rounding.
    """

    def __init__(self, settings: Settings) -> None:
        import torch

        self.settings = settings
        self.moments = settings.moments
        self._torch: Any = torch
        self._step = _STEPS[settings.name](torch, settings)

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
        self._step(tensor(parameters), tensor(gradient), [tensor(each) for each in moments], step, rate)


# The operations are those that torch.optim's classes call; its public functions around them group tensors by
# device at every call, which at the size of a piece takes as long again as the arithmetic.


def _adagrad(torch: Any, settings: Settings) -> Step:
    """Dean et al. 2012: eta_i = gamma / sqrt(sum of dw_i^2)."""

    def step(w: Tensor, g: Tensor, moments: list[Tensor], steps: Tensor, rate: float) -> None:
        torch._fused_adagrad_(
            [w], [g], moments, [steps], lr=rate, lr_decay=0.0, weight_decay=settings.weight_decay,
            eps=ADAGRAD_EPSILON, maximize=False,
        )  # fmt: skip

    return step


def _sgd(torch: Any, settings: Settings) -> Step:
    def step(w: Tensor, g: Tensor, moments: list[Tensor], _: Tensor, rate: float) -> None:
        # The first step's momentum is the gradient, which it also is after a momentum of zeros.
        torch._fused_sgd_(
            [w], [g], moments, weight_decay=settings.weight_decay, momentum=settings.momentum, lr=rate,
            dampening=0.0, nesterov=settings.nesterov, maximize=False, is_first_step=False,
        )  # fmt: skip

    return step


def _adam(torch: Any, settings: Settings) -> Step:
    fused = torch._fused_adamw_ if settings.name == "adamw" else torch._fused_adam_

    def step(w: Tensor, g: Tensor, moments: list[Tensor], steps: Tensor, rate: float) -> None:
        fused(
            [w], [g], moments[:1], moments[1:], [], [steps], amsgrad=False, lr=rate, beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1], weight_decay=settings.weight_decay, eps=ADAM_EPSILON, maximize=False,
        )  # fmt: skip

    return step


_STEPS: dict[str, Callable[[Any, Settings], Step]] = {
    "adagrad": _adagrad,
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adam,
}
