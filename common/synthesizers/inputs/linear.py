"""Linear I."""

from __future__ import annotations

from common.config.synthesizers import LinearInputOptions
from common.synthesizers.predictor import Predictor, Shape, linear_layers


def build(options: LinearInputOptions, input_shape: Shape, shape: Shape) -> Predictor:  # noqa: ARG001 - none
    """Build I from examples x of `input_shape` to h_{k-1} of `shape`."""
    return Predictor(linear_layers([], input_shape, shape))
