"""What the master makes of a push's staleness: whether it is taken, with what weight, with which gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", bound=np.floating)


def admitted(staleness: int, bound: int) -> bool:
    """Stale synchronous (Ho et al. 2013): a push is taken up to so much staleness."""
    return staleness <= bound


def weight(staleness: int) -> float:
    """What a push counts for, 1 / max(1, staleness) (Zhang et al. 2016, staleness-aware SGD)."""
    return 1.0 / max(1, staleness)


def compensated(
    gradient: npt.NDArray[Number],
    now: npt.NDArray[Number],
    fetched: npt.NDArray[Number],
    strength: float,
) -> npt.NDArray[Number]:
    """The gradient at the present weights, about: g + lambda g * g * (w_now - w_fetched), elementwise.

    Delay compensation (Zheng et al. 2017, algorithm 2): Taylor's first order, with lambda times the diagonal
    of g g^T for the Hessian.

    Args:
        gradient: g, (n,), taken at `fetched`.
        now: the weights it will be applied to, (n,).
        fetched: the weights it was taken at, (n,).
        strength: lambda.
    """
    correction = now - fetched
    correction *= gradient
    correction *= gradient
    correction *= correction.dtype.type(strength)
    correction += gradient
    return correction


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of a run.

    Attributes:
        name: any, bound, scale or compensate.
        bound: the largest staleness taken, of `bound`.
        strength: lambda for a pushed gradient, of `compensate`.
    """

    name: str = "any"
    bound: int = 0
    strength: float = 0.0

    def admits(self, staleness: int) -> bool:
        """Whether a push is taken."""
        return self.name != "bound" or admitted(staleness, self.bound)

    def weight(self, staleness: int) -> float:
        """What a push's change, or its learning rate, is multiplied by."""
        return weight(staleness) if self.name == "scale" else 1.0

    @property
    def compensates(self) -> bool:
        """Whether the weights that a slave fetched are needed when it pushes."""
        return self.name == "compensate"
