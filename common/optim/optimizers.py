"""Numbers of an optimizer. Imports no torch; the arithmetic is in `common.optim.steps`."""

from __future__ import annotations

from dataclasses import dataclass

from common.config.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Settings:
    """Name and numbers of an optimizer, as in torch.optim's classes.

    Attributes:
        beta: of nadam, decay of the first moment.
    """

    name: str = "adagrad"
    learning_rate: float = 0.05
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    beta: float = 0.9

    @property
    def moments(self) -> int:
        """Numbers that the optimizer keeps for each parameter."""
        return OPTIMIZERS[self.name].moments(self.momentum)
