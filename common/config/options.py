"""What a built-in network or synthesizer lets one choose.

Declared here, without torch, so that a refused configuration answers at once; built in `common.models` and
`common.synthesizers`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.config.settings import key
from common.errors import ConfigError

DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10")
AUGMENTS = ("none", "crop-flip")
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
class ResnetOptions:
    """The residual network for small images of He et al. (2016): three stages of n blocks, 6n + 2 layers."""

    depth: int = key(20, "6n + 2: 20, 32, 44, 56, 110, ...")
    width: int = key(16, "channels of the first stage; each further one has twice as many", minimum=1)

    def __post_init__(self) -> None:
        _check_depth("resnet", self.depth, 2)

    @property
    def blocks(self) -> int:
        """n, the blocks of a stage."""
        return (self.depth - 2) // 6

    @property
    def units(self) -> int:
        """How many units the network has: the stem, every block, the output."""
        return 3 * self.blocks + 2


@dataclass(frozen=True)
class WrnOptions:
    """The wide residual network of Zagoruyko and Komodakis (2016): pre-activated, 6n + 4 layers."""

    depth: int = key(28, "6n + 4: 16, 22, 28, 40, ...")
    width: int = key(10, "how many times as wide as a residual network of 16, 32 and 64 channels", minimum=1)
    dropout: float = key(
        0.0, "share that is dropped between the two convolutions of a block", minimum=0, maximum=0.9
    )

    def __post_init__(self) -> None:
        _check_depth("wrn", self.depth, 4)

    @property
    def blocks(self) -> int:
        """n, the blocks of a stage."""
        return (self.depth - 4) // 6

    @property
    def units(self) -> int:
        """How many units the network has: the stem, every block, the output."""
        return 3 * self.blocks + 2


def _check_depth(model: str, depth: int, rest: int) -> None:
    blocks, left = divmod(depth - rest, 6)
    if blocks < 1 or left:
        nearest = 6 * max(1, round((depth - rest) / 6)) + rest
        raise ConfigError(
            f"network.options.depth: {depth} is not 6n + {rest}, as the layers of a {model} are; "
            f"the nearest is {nearest}"
        )


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


ModelOptions = MlpOptions | CnnOptions | ResnetOptions | WrnOptions
GradientOptions = DniOptions | VfbnOptions
InputOptions = LinearInputOptions | HiddenInputOptions

MODELS: dict[str, type[MlpOptions] | type[CnnOptions] | type[ResnetOptions] | type[WrnOptions]] = {
    "mlp": MlpOptions,
    "cnn": CnnOptions,
    "resnet": ResnetOptions,
    "wrn": WrnOptions,
}
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
