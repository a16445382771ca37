"""Rules for stale pushes: refuse, weight, or compensate the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from common.config.pushes import STALENESS_RULES

Number = TypeVar("Number", bound=np.floating)


def compensate(
    gradient: npt.NDArray[Number],
    now: npt.NDArray[Number],
    fetched: npt.NDArray[Number],
    strength: float,
) -> npt.NDArray[Number]:
    """Approximate the gradient at the present weights: g + lambda g * g * (w_now - w_fetched), elementwise.

    Delay compensation (Zheng et al. 2017, algorithm 2): first-order Taylor expansion, with lambda times the
    diagonal of g g^T for the Hessian.

    Args:
        gradient: g, (n,), taken at `fetched`.
        now: present weights, (n,).
        fetched: weights at which the slave computed g, (n,).
        strength: lambda.
    """
    correction = now - fetched
    correction *= gradient
    correction *= gradient
    correction *= correction.dtype.type(strength)
    correction += gradient
    return correction


@dataclass(frozen=True, slots=True)
class StalenessRule:
    """Staleness rule of a run.

    Attributes:
        name: row of `STALENESS_RULES`.
        bound: largest staleness that `bound` applies.
        strength: lambda of `compensate`, for a pushed gradient.
    """

    name: str = "any"
    bound: int = 0
    strength: float = 0.0

    def admits(self, staleness: int) -> bool:
        """Whether a push is applied."""
        return STALENESS_RULES[self.name].admits(staleness, self.bound)

    def weight(self, staleness: int) -> float:
        """Factor of an update, or of the learning rate of a gradient."""
        return STALENESS_RULES[self.name].weight(staleness)

    @property
    def compensates(self) -> bool:
        """Whether a push needs the weights of the sender's last fetch."""
        return STALENESS_RULES[self.name].compensates
