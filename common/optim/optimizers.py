"""Which optimizer, and its numbers. Imports no torch: `common.optim.fused` has the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

_MOMENTS = {"adagrad": 1, "sgd": 1, "adam": 2, "adamw": 2}


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
        return int(self.momentum > 0) if self.name == "sgd" else _MOMENTS[self.name]
