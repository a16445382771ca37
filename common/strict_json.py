"""The one writer of JSON: valid everywhere, with null in the place of NaN and infinities."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Hashable
from functools import cache, lru_cache
from typing import Any, cast

# Types of values that JSON has.
_PLAIN = frozenset((str, int, float, bool, type(None)))


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


def to_plain(value: Any) -> Any:
    """Copy a value with mappings in the place of dataclasses: a quick `dataclasses.asdict`.

    Args:
        value: plain values, lists, mappings and dataclasses of these; other values stay as they are.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return {key: each if type(each) in _PLAIN else to_plain(each) for key, each in value.items()}
    if kind is list or kind is tuple:
        return [each if type(each) in _PLAIN else to_plain(each) for each in value]
    if (names := _field_names(cast(Hashable, kind))) is None:
        return value
    found = {}
    for name in names:
        each = getattr(value, name)
        found[name] = each if type(each) in _PLAIN else to_plain(each)
    return found


@cache
def _field_names(kind: Any) -> tuple[str, ...] | None:
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None
