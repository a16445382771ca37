"""Built-in networks: lists of units.

Module NAME has the function `build` of the network NAME of `common.config.models`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from common.bounds import LARGEST_SHARD_BYTES
from common.config.models import ModelOptions
from common.errors import ConfigError
from common.registry import import_implementation


def build(name: str, options: ModelOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """Build the units of a built-in network, with parameters from torch's global generator.

    Args:
        name: row of `common.config.models.MODELS`.
        options: options of that network.
        input_shape: shape of one example: (D,) or (C, H, W).
        classes: number of values in an example's output.

    Raises:
        ConfigError: the network cannot take examples of the shape, or a unit is larger than a shard may be.
    """
    implementation = import_implementation(__name__, name)
    if torch.get_default_device().type != "meta":
        # Without memory, before memory is taken.
        with torch.device("meta"):
            _check_sizes(implementation.build(options, input_shape, classes), name)
    units: list[nn.Module] = implementation.build(options, input_shape, classes)
    return units


def _check_sizes(units: Sequence[nn.Module], name: str) -> None:
    for number, unit in enumerate(units, 1):
        nbytes = sum(each.nbytes for each in unit.state_dict().values())
        if nbytes > LARGEST_SHARD_BYTES:
            raise ConfigError(
                f"network.options: unit {number} of {name} would take {nbytes:,} bytes, and a shard takes at "
                f"most {LARGEST_SHARD_BYTES:,}; choose smaller widths"
            )
