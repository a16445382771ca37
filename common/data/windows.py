"""Windows of T tokens, each with the window one token later as the target."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.data.examples import Arrays
from common.errors import ConfigError
from common.signals.forms import PLAIN


class ShortTextError(ConfigError):
    """A text has fewer than T + 1 tokens; the message lacks the key that gives T."""


def overlapping_windows(tokens: np.ndarray, context: int, source: str) -> Arrays:
    """Return a window from every token on: x = tokens[i : i + T], y = tokens[i + 1 : i + T + 1].

    An epoch takes windows side by side, from an offset of its own.

    Args:
        tokens: (n,), whole numbers; views of them are returned.
        context: T.
        source: of the tokens, for a refusal.

    Raises:
        ShortTextError: fewer than T + 1 tokens.
    """
    count = _count(tokens, context, source)
    x, y = _windows(tokens, context)
    return Arrays({PLAIN: x}, y, stride=min(context, count))


def consecutive_windows(tokens: np.ndarray, context: int, source: str) -> Arrays:
    """Return the windows side by side from the first token on; fewer than T tokens at the end are left out.

    Arguments and errors as of `overlapping_windows`.
    """
    _count(tokens, context, source)
    x, y = _windows(tokens, context)
    return Arrays({PLAIN: x[::context]}, y[::context])


def _count(tokens: np.ndarray, context: int, source: str) -> int:
    count = len(tokens) - context
    if count < 1:
        raise ShortTextError(
            f"{context} needs {context + 1} tokens at least, but {source} has {len(tokens)}; give a smaller "
            "number, or more text"
        )
    return count


def _windows(tokens: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    return sliding_window_view(tokens[:-1], context), sliding_window_view(tokens[1:], context)
