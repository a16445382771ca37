"""Registries of M and I: every gradient and input synthesizer with options.

The modules are built in `common.synthesizers.gradients` and `common.synthesizers.inputs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.bounds import MOST_UNITS, MOST_WIDTH
from common.config.settings import key
from common.config.unlocks import FORWARD, Divide, Shares
from common.config.values import is_user_function
from common.errors import ConfigError
from common.registry import Registry, Row


@dataclass(frozen=True)
class DniOptions:
    """Options of the regression from h (and y) to the gradient (DNI, cDNI; Jaderberg et al. 2016)."""

    hidden: list[int] = key(
        [],
        "widths (channels, for feature maps) of the hidden layers; [] is linear",
        minimum=1,
        maximum=MOST_WIDTH,
    )
    batch_norm: bool = key(True, "batch normalization in the hidden layers")


@dataclass(frozen=True)
class PropOptions(DniOptions):
    """Options of the regression whose loss teaches the layer, too (SG+prop; Czarnecki et al. 2017)."""

    alpha: float = key(1.0, "factor of the gradient of M's loss in h", minimum=0)


@dataclass(frozen=True)
class VfbnOptions:
    """Options of the virtual forward network v; M returns v's gradient (VFBN; Miyato et al. 2017)."""

    hidden: int | None = key(
        None,
        "width of v's hidden layer; 0 is a linear v; unset: 64, but 0 for sequences",
        minimum=0,
        maximum=MOST_WIDTH,
    )
    supervised: float = key(
        1.0, "factor of the task's own loss at v(h) in what v learns; 0: the squared error alone", minimum=0
    )
    trained: bool = key(True, "false keeps v at its random start: the paper's control of rate 0")
    v: str | None = key(None, "v of your own, path/to/file.py:function, in hidden's place; unset: built in")

    def __post_init__(self) -> None:
        if self.v is None:
            return
        if not is_user_function(self.v):
            raise ConfigError(
                f'decoupling.gradient_options.v: "{self.v}" names no function in a file; write it as '
                "path/to/file.py:function"
            )
        if self.hidden is not None:
            raise ConfigError(
                f"decoupling.gradient_options.hidden: {self.hidden} is a width of the built-in v, which v = "
                f'"{self.v}" replaces; give one of the two'
            )


@dataclass(frozen=True)
class LinearInputOptions:
    """Options of a linear I: none."""


@dataclass(frozen=True)
class HiddenInputOptions:
    """Options of an I with hidden layers, linear or convolutional."""

    hidden: list[int] | None = key(
        None,
        "widths (channels, of convolutions) of the hidden layers; unset: [256] ([16])",
        minimum=1,
        maximum=MOST_WIDTH,
    )
    batch_norm: bool = key(True, "batch normalization in the hidden layers")

    def __post_init__(self) -> None:
        if self.hidden == []:
            raise ConfigError(
                'decoupling.input_options.hidden: at least one layer is needed; decoupling.input = "linear" '
                "has none"
            )


@dataclass(frozen=True)
class CausalInputOptions:
    """Options of an I with causal attention over tokens."""

    width: int = key(64, "numbers a position", minimum=1, maximum=MOST_WIDTH)
    heads: int = key(4, "attention heads of a block; a divisor of width", minimum=1, maximum=MOST_UNITS)
    blocks: int = key(1, "blocks of attention and MLP", minimum=1, maximum=MOST_UNITS)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                f"decoupling.input_options.heads: {self.heads} does not divide width = {self.width}; give a "
                "divisor"
            )


GradientOptions = DniOptions | VfbnOptions
InputOptions = LinearInputOptions | HiddenInputOptions | CausalInputOptions


@dataclass(frozen=True, kw_only=True)
class GradientRow(Row):
    """A gradient synthesizer M.

    Attributes:
        options: dataclass of `decoupling.gradient_options`.
        shares: division of a step's multiply-adds where the layer steps once M's loss is known; None: as of
            the unlock.
    """

    options: type[DniOptions] | type[VfbnOptions]
    shares: Divide | None = None

    @property
    def propagates(self) -> bool:
        """Whether a layer steps on the gradient of M's loss, too, and hence waits for the true gradient."""
        return self.shares is not None


@dataclass(frozen=True, kw_only=True)
class InputRow(Row):
    """An input synthesizer I.

    Attributes:
        options: dataclass of `decoupling.input_options`.
    """

    options: type[LinearInputOptions] | type[HiddenInputOptions] | type[CausalInputOptions]


def _share_with_propagation(work: float, synthesis: float) -> Shares:
    """Divide a forward and M's gradient for the layer below, and a whole step once delta_k arrives."""
    forward, use = work * FORWARD, synthesis * FORWARD
    return Shares(forward, 2 * forward + use, work + synthesis)


# Keys of an M whose gradient is stepped on before the true gradient comes.
_AT_ONCE = ("mix_true", "fallback_cosine", "step_probability", "cluster.synthesis")

GRADIENTS = Registry(
    GradientRow(name="dni", help="regression on h", heeds=_AT_ONCE, options=DniOptions),
    GradientRow(name="cdni", help="regression on h and the label", heeds=_AT_ONCE, options=DniOptions),
    GradientRow(
        name="vfbn", help="gradient of a small virtual forward network", heeds=_AT_ONCE, options=VfbnOptions
    ),
    GradientRow(
        name="sg+prop", help="cdni and the gradient of its loss, known once the true gradient comes",
        options=PropOptions, shares=_share_with_propagation,
    ),
)  # fmt: skip
INPUTS = Registry(
    InputRow(name="linear", help="one linear layer", options=LinearInputOptions),
    InputRow(name="mlp", help="hidden linear layers", options=HiddenInputOptions),
    InputRow(name="conv", help="convolutions of images", options=HiddenInputOptions),
    InputRow(name="causal", help="attention over tokens", options=CausalInputOptions),
    InputRow(name="frozen", help="never trained, the control", options=HiddenInputOptions),
)
