"""Layers of input synthesizers I that take tokens x (B, T) int64 and predict an h of (B, T, D)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.signals.forms import TensorForm
from common.synthesizers.rows import RowNorm

# Standard deviation of initial rows, as of a language model's embedding.
DEVIATION = 0.02

Shape = tuple[int, ...]


class TokenRows(nn.Module):
    """A row for each token plus a row for each position: a linear layer of both one-hots, by look-up."""

    def __init__(self, inputs: TensorForm, width: int) -> None:
        super().__init__()
        (context,) = inputs.shape
        self.tokens = nn.Embedding(inputs.vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        nn.init.normal_(self.tokens.weight, std=DEVIATION)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T) to (B, T, width)."""
        rows: Tensor = self.tokens(tokens)
        return rows + self.positions


class CausalBlock(nn.TransformerEncoderLayer):
    """Pre-norm transformer block in which position t sees positions up to t."""

    mask: Tensor

    def __init__(self, context: int, width: int, heads: int) -> None:
        super().__init__(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        mask = nn.Transformer.generate_square_subsequent_mask(context)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Map (B, T, width) to the same."""
        return super().forward(x, src_mask=self.mask, is_causal=True)


def pointwise_layers(
    hidden: list[int], inputs: TensorForm, shape: Shape, *, batch_norm: bool = False
) -> list[nn.Module]:
    """Build hidden linear layers (BN, ReLU) of these widths and the linear layer to h, for each position.

    The first linear layer takes one-hot vectors of the token and the position.

    Raises:
        ConfigError: h has no positions.
    """
    widths = [*hidden, _width(inputs, shape)]
    layers: list[nn.Module] = [TokenRows(inputs, widths[0])]
    for size, width in itertools.pairwise(widths):
        layers += [*([RowNorm(size)] if batch_norm else []), nn.ReLU(), nn.Linear(size, width)]
    return layers


def causal_layers(width: int, heads: int, blocks: int, inputs: TensorForm, shape: Shape) -> list[nn.Module]:
    """Build rows of `width` numbers, causal blocks, a norm and the linear layer to h.

    Raises:
        ConfigError: h has no positions.
    """
    size = _width(inputs, shape)
    (context,) = inputs.shape
    return [
        TokenRows(inputs, width),
        *(CausalBlock(context, width, heads) for _ in range(blocks)),
        nn.LayerNorm(width),
        nn.Linear(width, size),
    ]


def _width(inputs: TensorForm, shape: Shape) -> int:
    """Return D of an h of (T, D)."""
    if len(shape) != 2 or shape[:1] != inputs.shape:
        count = " x ".join(map(str, inputs.shape)) or "no"
        raise ConfigError(
            f"decoupling.input: I predicts activations of {count} positions from tokens, but a "
            f'layer begins with {shape}; move network.cuts, or choose decoupling.unlock = "update"'
        )
    return shape[1]
