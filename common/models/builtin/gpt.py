"""Decoder-only transformer of GPT-2 (Radford et al. 2019), with learned or rotary positions."""

from __future__ import annotations

from torch import nn

from common.config.models import POSITIONS, GptOptions
from common.models.transformer import Block, Embedding, Rotation, head


def build(options: GptOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """Build units (B, T) -> (B, T, width), a block each (B, T, width) -> the same, -> (B, T, V).

    Args:
        options: of the network.
        input_shape: (T,), the number of tokens of an example.
        classes: V, the number of tokens of the vocabulary.
    """
    (context,) = input_shape
    width, heads, dropout = options.width, options.heads, options.dropout
    rotates = POSITIONS[options.positions].rotates
    units: list[nn.Module] = [Embedding(classes, context, width, dropout, learned=not rotates)]
    for _ in range(options.blocks):
        rotation = Rotation(context, width // heads) if rotates else None
        units.append(Block(width, heads, dropout, rotation, options.blocks))
    return [*units, head(width, classes)]
