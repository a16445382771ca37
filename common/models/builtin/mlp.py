"""A multi-layer perceptron."""

from __future__ import annotations

import itertools
import math

from torch import nn

from common.config.models import MlpOptions

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}


def build(options: MlpOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """Build units (B, *input_shape) -> (B, width) ... -> (B, classes).

    A unit is a Linear with batch normalization and activation; the last is a Linear alone. The first
    flattens input of more than one dimension.
    """
    widths = [math.prod(input_shape), *options.widths]
    units = [_hidden(options, size, width) for size, width in itertools.pairwise(widths)]
    units.append(nn.Sequential(nn.Linear(widths[-1], classes)))
    if len(input_shape) > 1:
        units[0].insert(0, nn.Flatten())
    return list(units)


def _hidden(options: MlpOptions, size: int, width: int) -> nn.Sequential:
    # The Linear keeps its bias before BN, torch's default, so that an exported state dict fits the network as
    # commonly written.
    norm = [nn.BatchNorm1d(width)] if options.batch_norm else []
    return nn.Sequential(nn.Linear(size, width), *norm, ACTIVATIONS[options.activation]())
