"""I with hidden linear layers."""

from __future__ import annotations

from common.config.synthesizers import HiddenInputOptions
from common.signals.forms import TensorForm
from common.synthesizers.predictor import LINEAR_HIDDEN, Predictor, Shape, linear_layers
from common.synthesizers.tokens import pointwise_layers


def build(options: HiddenInputOptions, inputs: TensorForm, shape: Shape) -> Predictor:
    """Build I from examples x to h_{k-1} of `shape`; on tokens, for each position."""
    hidden = options.hidden or LINEAR_HIDDEN
    build_layers = pointwise_layers if inputs.vocabulary else linear_layers
    return Predictor(build_layers(hidden, inputs, shape, batch_norm=options.batch_norm))
