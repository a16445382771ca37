"""Parts of a decoder-only transformer; T positions, D the width, H heads of D / H numbers.

The names of a block's tensors are those of `nn.TransformerEncoderLayer`, which loads them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Standard deviation of initial weights (GPT-2).
DEVIATION = 0.02
# Base of the rotary wavelengths (Su et al. 2021).
BASE = 10_000.0


class Embedding(nn.Module):
    """Token embedding plus, unless `learned` is false, a learned embedding of the position, and dropout."""

    def __init__(self, vocabulary: int, context: int, width: int, dropout: float, *, learned: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width) if learned else None
        self.dropout = nn.Dropout(dropout)
        for part in (self.tokens, self.positions):
            if part is not None:
                nn.init.normal_(part.weight, std=DEVIATION)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T) int64 to (B, T, D)."""
        h: Tensor = self.tokens(tokens)
        if self.positions is not None:
            h = h + self.positions.weight[: tokens.shape[1]]
        dropped: Tensor = self.dropout(h)
        return dropped


class Rotation(nn.Module):
    """Rotary positions: pair i of a head's numbers turns by position x BASE^(-2i / size) (Su et al. 2021)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, context: int, size: int) -> None:
        super().__init__()
        speeds = BASE ** -(torch.arange(0, size, 2) / size)
        angles = torch.arange(context)[:, None] * speeds
        # Constants, which no shard needs to hold.
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, H, T, size): the number i of each pair is in the first half, its partner in the second."""
        cosine, sine = self.cosine[: x.shape[2]], self.sine[: x.shape[2]]
        first, second = x.chunk(2, -1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class Attention(nn.Module):
    """Causal self-attention: position t sees positions up to t."""

    def __init__(self, width: int, heads: int, dropout: float, rotation: Rotation | None) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.rotation = rotation
        self._heads = heads
        self._dropout = dropout
        nn.init.normal_(self.in_proj_weight, std=DEVIATION)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (
            part.transpose(1, 2) for part in projected.view(*x.shape[:2], 3, self._heads, -1).unbind(2)
        )
        if self.rotation is not None:
            q, k = self.rotation(q), self.rotation(k)
        dropout = self._dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Pre-norm block: x + attention, then x + MLP of 4 D hidden GELUs.

    Args:
        width: D.
        heads: H.
        dropout: share dropped of the attention's weights and of both sums' new terms.
        rotation: rotary positions; None where the embedding has learned ones.
        depth: number of blocks of the network; it scales the initial weights that lead into the sums (GPT-2).
    """

    def __init__(self, width: int, heads: int, dropout: float, rotation: Rotation | None, depth: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = Attention(width, heads, dropout, rotation)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, 4 * width)
        self.linear2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        residual = DEVIATION * (2 * depth) ** -0.5
        for linear, deviation in (
            (self.self_attn.out_proj, residual),
            (self.linear1, DEVIATION),
            (self.linear2, residual),
        ):
            nn.init.normal_(linear.weight, std=deviation)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = x + self.dropout(self.self_attn(self.norm1(x)))
        hidden = F.gelu(self.linear1(self.norm2(x)))
        added: Tensor = self.dropout(self.linear2(hidden))
        return x + added


def head(width: int, vocabulary: int) -> nn.Sequential:
    """Build the last unit, (B, T, D) -> (B, T, V): a norm, and a Linear that is not tied to the tokens."""
    last = nn.Linear(width, vocabulary, bias=False)
    nn.init.normal_(last.weight, std=DEVIATION)
    return nn.Sequential(nn.LayerNorm(width), last)
