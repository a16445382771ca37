"""Registry of the built-in networks and the options.

The networks are built in `common.models.builtin`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.bounds import MOST_UNITS, MOST_WIDTH
from common.config.settings import choice, key
from common.errors import ConfigError
from common.registry import Registry, Row

ACTIVATIONS = Registry(
    Row(name="relu", help="max(0, x)"),
    Row(name="tanh", help="hyperbolic tangent"),
    Row(name="sigmoid", help="logistic function"),
    Row(name="gelu", help="Gaussian error linear unit"),
)


@dataclass(frozen=True)
class MlpOptions:
    """Options of a perceptron; a unit is a Linear with batch normalization and activation."""

    widths: list[int] = key(
        [256, 256], "widths of the hidden units; the output unit is added", minimum=1, maximum=MOST_WIDTH
    )
    batch_norm: bool = key(True, "batch normalization after each hidden Linear")
    activation: str = choice("relu", ACTIVATIONS, "after each hidden unit")

    @property
    def units(self) -> int:
        """Number of units, the output included."""
        return len(self.widths) + 1


@dataclass(frozen=True)
class CnnOptions:
    """Options of 5x5 convolutions, each with batch normalization, ReLU and a pool; then a Linear."""

    channels: list[int] = key([64, 64], "channels of each convolution", minimum=1, maximum=MOST_WIDTH)

    def __post_init__(self) -> None:
        if not self.channels:
            raise ConfigError("network.options.channels: at least one convolution is needed")

    @property
    def units(self) -> int:
        """Number of units, the output included."""
        return len(self.channels) + 1


@dataclass(frozen=True)
class ResnetOptions:
    """Options of the residual network of He et al. (2016): three stages of n blocks, 6n + 2 layers."""

    depth: int = key(20, "6n + 2: 20, 32, 44, 56, 110, ...", maximum=MOST_UNITS)
    width: int = key(
        16, "channels of the first stage; each further one has twice as many", minimum=1, maximum=MOST_WIDTH
    )

    def __post_init__(self) -> None:
        _check_depth("resnet", self.depth, 2)

    @property
    def blocks(self) -> int:
        """Number n of blocks in a stage."""
        return (self.depth - 2) // 6

    @property
    def units(self) -> int:
        """Number of units: the stem, every block, the output."""
        return 3 * self.blocks + 2


@dataclass(frozen=True)
class WrnOptions:
    """Options of the wide residual network of Zagoruyko and Komodakis (2016): 6n + 4 layers."""

    depth: int = key(28, "6n + 4: 16, 22, 28, 40, ...", maximum=MOST_UNITS)
    width: int = key(
        10,
        "how many times as wide as a residual network of 16, 32 and 64 channels",
        minimum=1,
        maximum=MOST_WIDTH,
    )
    dropout: float = key(
        0.0, "share that is dropped between the two convolutions of a block", minimum=0, maximum=0.9
    )

    def __post_init__(self) -> None:
        _check_depth("wrn", self.depth, 4)

    @property
    def blocks(self) -> int:
        """Number n of blocks in a stage."""
        return (self.depth - 4) // 6

    @property
    def units(self) -> int:
        """Number of units: the stem, every block, the output."""
        return 3 * self.blocks + 2


@dataclass(frozen=True, kw_only=True)
class PositionsRow(Row):
    """A way to tell positions apart.

    Attributes:
        rotates: whether attention turns its queries and keys; else the first unit adds a learned embedding.
    """

    rotates: bool = False


POSITIONS = Registry(
    PositionsRow(name="learned", help="an embedding of each position"),
    PositionsRow(name="rotary", help="queries and keys turned by their position", rotates=True),
)


@dataclass(frozen=True)
class GptOptions:
    """Options of the decoder-only transformer of GPT-2: an embedding, blocks, a head."""

    width: int = key(128, "numbers a position", minimum=1, maximum=MOST_WIDTH)
    heads: int = key(4, "attention heads of a block; a divisor of width", minimum=1, maximum=MOST_UNITS)
    blocks: int = key(4, "blocks of attention and MLP, a unit each", minimum=1, maximum=MOST_UNITS)
    dropout: float = key(
        0.0, "share dropped of attention, of embeddings and of what blocks add", minimum=0, maximum=0.9
    )
    positions: str = choice("learned", POSITIONS, "positions of tokens")

    def __post_init__(self) -> None:
        size, left = divmod(self.width, self.heads)
        if left:
            raise ConfigError(
                f"network.options.heads: {self.heads} does not divide width = {self.width}; give a divisor"
            )
        if POSITIONS[self.positions].rotates and size % 2:
            raise ConfigError(
                f"network.options.heads: rotary positions turn pairs of a head's numbers, but a head of "
                f"width {self.width} / {self.heads} has {size}; choose an even number"
            )

    @property
    def units(self) -> int:
        """Number of units: the embedding, every block, the head."""
        return self.blocks + 2


@dataclass(frozen=True)
class RecurrentOptions:
    """Options of a recurrent network over tokens: an embedding, recurrent units, a head."""

    width: int = key(256, "numbers of a recurrent unit's output at a step", minimum=1, maximum=MOST_WIDTH)
    depth: int = key(1, "recurrent units", minimum=1, maximum=MOST_UNITS)
    embedding: int | None = key(
        None, "numbers of a token's embedding; unset: width", minimum=1, maximum=MOST_WIDTH
    )

    @property
    def units(self) -> int:
        """Number of units: the embedding, every recurrent unit, the head."""
        return self.depth + 2


def _check_depth(model: str, depth: int, rest: int) -> None:
    blocks, left = divmod(depth - rest, 6)
    if blocks < 1 or left:
        nearest = 6 * max(1, round((depth - rest) / 6)) + rest
        raise ConfigError(
            f"network.options.depth: {depth} is not 6n + {rest}, as the layers of a {model} are; "
            f"the nearest is {nearest}"
        )


ModelOptions = MlpOptions | CnnOptions | ResnetOptions | WrnOptions | GptOptions | RecurrentOptions


@dataclass(frozen=True, kw_only=True)
class ModelRow(Row):
    """A built-in network.

    Attributes:
        options: dataclass of `network.options`.
        takes_tokens: whether an example is tokens (T,) int64; else numbers.
        recurrent: whether units carry a state from step to step, each step for itself.
    """

    options: type[ModelOptions]
    takes_tokens: bool = False
    recurrent: bool = False


MODELS = Registry(
    ModelRow(name="mlp", help="perceptron", options=MlpOptions),
    ModelRow(name="cnn", help="plain convolutional network", options=CnnOptions),
    ModelRow(name="resnet", help="residual network", options=ResnetOptions),
    ModelRow(name="wrn", help="wide residual network", options=WrnOptions),
    ModelRow(name="gpt", help="transformer over tokens", options=GptOptions, takes_tokens=True),
    ModelRow(
        name="lstm", help="long short-term memory over tokens", options=RecurrentOptions, takes_tokens=True,
        recurrent=True,
    ),
    ModelRow(
        name="gru", help="gated recurrent units over tokens", options=RecurrentOptions, takes_tokens=True,
        recurrent=True,
    ),
)  # fmt: skip
