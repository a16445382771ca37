"""I with causal attention over tokens."""

from __future__ import annotations

from common.config.synthesizers import CausalInputOptions
from common.errors import ConfigError
from common.signals.forms import TensorForm
from common.synthesizers.predictor import Predictor, Shape
from common.synthesizers.tokens import causal_layers


def build(options: CausalInputOptions, inputs: TensorForm, shape: Shape) -> Predictor:
    """Build I from tokens x (T,) to h_{k-1} of `shape` (T, D).

    Raises:
        ConfigError: the examples are not tokens, or h has other positions.
    """
    if not inputs.vocabulary:
        raise ConfigError(
            f"decoupling.input: causal takes tokens, but the data's examples are numbers {inputs.shape}; "
            'choose "mlp"'
        )
    return Predictor(causal_layers(options.width, options.heads, options.blocks, inputs, shape))
