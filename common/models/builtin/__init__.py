"""Built-in networks: lists of units.

Module NAME has the function `build` of the network NAME of `common.config.models`.
"""

from __future__ import annotations

from torch import nn

from common.config.models import ModelOptions
from common.registry import import_implementation


def build(name: str, options: ModelOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """Build the units of a built-in network, with parameters from torch's global generator.

    Args:
        name: row of `common.config.models.MODELS`.
        options: options of that network.
        input_shape: shape of one example: (D,) or (C, H, W).
        classes: number of values in an example's output.

    Raises:
        ConfigError: the network cannot take examples of the shape.
    """
    units: list[nn.Module] = import_implementation(__name__, name).build(options, input_shape, classes)
    return units
