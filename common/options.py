"""What a built-in network or synthesizer lets one choose.

Declared here, without torch, so that a refused configuration answers at once; built in `common.models` and
`common.synthesizers`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import ConfigError
from common.settings import key

DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10")
ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu")


@dataclass(frozen=True)
class MlpOptions:
    """A perceptron: each unit is a Linear with the batch normalization and activation that follow it."""

    widths: list[int] = key([256, 256], "widths of the hidden units; the output unit is added", minimum=1)
    batch_norm: bool = key(True, "batch normalization after each hidden Linear")
    activation: str = key("relu", "after each hidden unit", choices=ACTIVATIONS)

    @property
    def units(self) -> int:
        """How many units the network has, the output included."""
        return len(self.widths) + 1


@dataclass(frozen=True)
class CnnOptions:
    """5x5 convolutions, each with batch normalization, ReLU and a pool of stride 2; then a Linear."""

    channels: list[int] = key([64, 64], "channels of each convolution", minimum=1)

    def __post_init__(self) -> None:
        if not self.channels:
            raise ConfigError("network.options.channels: at least one convolution is needed")

    @property
    def units(self) -> int:
        """How many units the network has, the output included."""
        return len(self.channels) + 1


@dataclass(frozen=True)
class DniOptions:
    """M of DNI and cDNI (Jaderberg et al. 2016): a regression from h (and y) to the gradient."""

    hidden: list[int] = key(
        [], "widths (channels, for feature maps) of the hidden layers; [] is linear", minimum=1
    )
    batch_norm: bool = key(True, "batch normalization in the hidden layers")


@dataclass(frozen=True)
class VfbnOptions:
    """M of VFBN (Miyato et al. 2017): the gradient of a small virtual forward network v."""

    hidden: int | None = key(
        None,
        "width (channels, for feature maps) of v's hidden layers; 0 is a linear v; "
        "unset: 64 for vectors, 0 for feature maps",
        minimum=0,
    )
    trained: bool = key(True, "false keeps v at its random start: the paper's control of rate 0")


@dataclass(frozen=True)
class LinearInputOptions:
    """A linear I: there is nothing to choose."""


@dataclass(frozen=True)
class HiddenInputOptions:
    """I with hidden layers, of Linears or of convolutions."""

    hidden: list[int] | None = key(
        None, "widths (channels, of convolutions) of the hidden layers; unset: [256] ([16])", minimum=1
    )
    batch_norm: bool = key(True, "batch normalization in the hidden layers")

    def __post_init__(self) -> None:
        if self.hidden == []:
            raise ConfigError(
                'decoupling.input_options.hidden: at least one layer is needed; decoupling.input = "linear" '
                "has none"
            )


ModelOptions = MlpOptions | CnnOptions
GradientOptions = DniOptions | VfbnOptions
InputOptions = LinearInputOptions | HiddenInputOptions

MODELS: dict[str, type[MlpOptions] | type[CnnOptions]] = {"mlp": MlpOptions, "cnn": CnnOptions}
GRADIENTS: dict[str, type[DniOptions] | type[VfbnOptions]] = {
    "dni": DniOptions,
    "cdni": DniOptions,
    "vfbn": VfbnOptions,
}
INPUTS: dict[str, type[LinearInputOptions] | type[HiddenInputOptions]] = {
    "linear": LinearInputOptions,
    "mlp": HiddenInputOptions,
    "conv": HiddenInputOptions,
    "frozen": HiddenInputOptions,
}
