"""The one writer of JSON: valid everywhere, with null in the place of NaN and infinities."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def encode(
    value: Any,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """Encode a value as JSON; NaN and infinities become null.

    Args:
        value: plain values, lists and mappings.
        indent: spaces of a level; None: a single line.
        sort_keys: order every mapping by key.
        default: converts a value of a further type.
    """
    encoder = _encoder(indent, sort_keys, default)
    try:
        return encoder.encode(value)
    except ValueError:
        return encoder.encode(_replace(value))


@lru_cache(maxsize=32)
def _encoder(indent: int | None, sort_keys: bool, default: Callable[[Any], Any] | None) -> json.JSONEncoder:
    # `json.dumps` builds an encoder for each call, which takes longer than a short text.
    return json.JSONEncoder(allow_nan=False, indent=indent, sort_keys=sort_keys, default=default)


def _replace(value: Any) -> Any:
    """Copy a value, with None for numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _replace(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(each) for each in value]
    return value
