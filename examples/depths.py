"""Perceptron of any depth, for examples/depths.toml."""

import math

from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def build(
    input_shape: tuple[int, ...], classes: int, depth: int = 3, activation: str = "relu", width: int = 64
) -> list[nn.Module]:
    """Build `depth` hidden units, each a Linear with batch normalization and activation, and the output."""
    sizes = [math.prod(input_shape), *[width] * depth]
    units: list[nn.Module] = [
        nn.Sequential(
            *([nn.Flatten()] if number == 0 else []),
            nn.Linear(sizes[number], width),
            nn.BatchNorm1d(width),
            ACTIVATIONS[activation](),
        )
        for number in range(depth)
    ]
    return [*units, nn.Linear(width, classes)]
