"""Linear I."""

from __future__ import annotations

from common.config.synthesizers import LinearInputOptions
from common.signals.forms import TensorForm
from common.synthesizers.predictor import Predictor, Shape, linear_layers
from common.synthesizers.tokens import pointwise_layers


def build(options: LinearInputOptions, inputs: TensorForm, shape: Shape) -> Predictor:  # noqa: ARG001 - none
    """Build I from examples x to h_{k-1} of `shape`; on tokens, for each position."""
    build_layers = pointwise_layers if inputs.vocabulary else linear_layers
    return Predictor(build_layers([], inputs, shape))
