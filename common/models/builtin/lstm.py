"""Long short-term memory over tokens (Hochreiter and Schmidhuber 1997)."""

from __future__ import annotations

from torch import nn

from common.config.models import RecurrentOptions
from common.models.recurrent import Lstm, stack


def build(options: RecurrentOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:  # noqa: ARG001 - any number of steps
    """Build units (B, T) -> (B, T, embedding) -> `depth` times (B, T, width) -> (B, T, V).

    Args:
        options: of the network.
        input_shape: (T,), the number of tokens of an example.
        classes: V, the number of tokens of the vocabulary.
    """
    return stack(Lstm, options, classes)
