"""State of a layer's optimizers as the state of a shard: k/optimizer, the layer's backup."""

from __future__ import annotations

from collections.abc import Mapping

from common.optim.stepper import Stepper
from slave.training.gathered import Gathered


class Moments(Gathered):
    """Moments and step counts of several steppers.

    The table has weights.m0, ..., weights.count, gradient.m0, ...; it is empty if the optimizers have no
    state. With several replicas the master's value is near their mean.

    Args:
        steppers: the steppers by the kind of their shard: weights, gradient, input.
    """

    def __init__(self, steppers: Mapping[str, Stepper]) -> None:
        super().__init__(
            {
                f"{kind}.{name}": tensor
                for kind, stepper in steppers.items()
                for name, tensor in stepper.state().items()
            }
        )
