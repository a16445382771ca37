"""Outer optimizer of replicas: pushed changes as gradients of SGD with Nesterov's momentum, without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from common.shards.pushes import Operation

Floats = npt.NDArray[np.float32]


class Outer:
    """Delayed Nesterov momentum (Liu et al. 2024, algorithm 3, with c = 0; R = 1: DiLoCo's).

    Of R replicas, R pushes make a round. With the change D of a push, in replicas' own steps:

        S = S + D / R                         the round's mean change
        w = w + rate D / R                    on each push
        m = momentum m + S                    on the last push of a round, and then
        w = w + rate momentum m,  S = 0

    A round has as many pushes as the layer has replicas, whoever sends them. With one replica S is D, and is
    not kept.

    Args:
        rate: of the outer step; 1 without momentum adds the mean change of a round.
        momentum: of the mean change.
        replicas: R.
    """

    operation = Operation.UPDATE

    def __init__(self, rate: float, momentum: float, replicas: int) -> None:
        self.moments = 1 if replicas == 1 else 2
        self._rate, self._momentum, self._replicas = rate, momentum, replicas

    def apply(
        self, parameters: Floats, change: Floats, moments: list[Floats], steps: int, weight: float = 1.0
    ) -> None:
        """Take an outer step in place on consecutive parameters.

        Args:
            parameters: w, (n,).
            change: D, (n,); overwritten.
            moments: m, and S with several replicas, (n,) each; zeros before the first step.
            steps: number of earlier pushes.
            weight: factor of the change.
        """
        rate, momentum = np.float32(self._rate), np.float32(self._momentum)
        change *= np.float32(weight / self._replicas)
        parameters += rate * change
        average = moments[0]
        total = change
        if self._replicas > 1:
            total = moments[1]
            total += change
        if (steps + 1) % self._replicas == 0:
            average *= momentum
            average += total
            parameters += (rate * momentum) * average
            total[...] = 0
