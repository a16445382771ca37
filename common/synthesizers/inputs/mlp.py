"""I with hidden linear layers."""

from __future__ import annotations

from common.config.synthesizers import HiddenInputOptions
from common.synthesizers.predictor import LINEAR_HIDDEN, Predictor, Shape, linear_layers


def build(options: HiddenInputOptions, input_shape: Shape, shape: Shape) -> Predictor:
    """Build I from examples x of `input_shape` to h_{k-1} of `shape`."""
    hidden = options.hidden or LINEAR_HIDDEN
    return Predictor(linear_layers(hidden, input_shape, shape, batch_norm=options.batch_norm))
