"""I with convolutions of images."""

from __future__ import annotations

from common.config.synthesizers import HiddenInputOptions
from common.errors import ConfigError
from common.signals.forms import TensorForm
from common.synthesizers.predictor import CONVOLUTION_HIDDEN, Predictor, Shape, convolution_layers


def build(options: HiddenInputOptions, inputs: TensorForm, shape: Shape) -> Predictor:
    """Build I from images x to h_{k-1} of `shape`.

    Raises:
        ConfigError: the examples are not images.
    """
    if len(inputs.shape) != 3:
        raise ConfigError(
            f"decoupling.input: conv takes images (channels, height, width), but the data's examples are "
            f'{inputs.shape}; choose "mlp"'
        )
    hidden = options.hidden or CONVOLUTION_HIDDEN
    return Predictor(convolution_layers(hidden, inputs, shape, batch_norm=options.batch_norm))
