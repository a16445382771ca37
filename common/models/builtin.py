"""The built-in networks, each a list of units: the smallest parts that a cut can fall between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from common.config.options import ModelOptions
from common.models import cnn, mlp, resnet

BUILDERS: dict[str, Callable[[Any, tuple[int, ...], int], list[nn.Module]]] = {
    "mlp": mlp.build,
    "cnn": cnn.build,
    "resnet": resnet.build,
    "wrn": resnet.build_wide,
}


def build(name: str, options: ModelOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """The units of the built-in network `name`, their parameters drawn from torch's global generator.

    Args:
        name: a key of `BUILDERS`.
        options: the options of that network.
        input_shape: of one example: (D,) or (C, H, W).
        classes: how many numbers an example's output has.

    Raises:
        ConfigError: the network cannot take such examples.
    """
    return BUILDERS[name](options, input_shape, classes)
