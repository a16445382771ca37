"""I that stays as drawn: the control that every trained I must beat."""

from __future__ import annotations

from common.config.synthesizers import HiddenInputOptions
from common.signals.forms import TensorForm
from common.synthesizers.inputs import conv, mlp
from common.synthesizers.predictor import Predictor, Shape


def build(options: HiddenInputOptions, inputs: TensorForm, shape: Shape) -> Predictor:
    """Build convolutions from images to feature maps, hidden linear layers elsewhere."""
    convolves = len(inputs.shape) == len(shape) == 3
    build_trained = conv.build if convolves else mlp.build
    predictor = build_trained(options, inputs, shape)
    predictor.freeze()
    return predictor
