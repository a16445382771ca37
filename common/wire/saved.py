"""Whole numbers from state files in JSON, with a check of each range."""

from __future__ import annotations

from typing import Any

from common.errors import MalformedError
from common.wire.ranges import COUNT, Range


def restore_number(value: Any, name: str, allowed: Range = COUNT) -> int:
    """Return a whole number within a range.

    Raises:
        MalformedError: the value is something else; the text has `name` and value.
    """
    if type(value) is not int:
        raise MalformedError(f"{name} = {value!r:.40} is no whole number")
    allowed.check(value, name)
    return value


def restore_map(value: Any, name: str, keys: Range, values: Range = COUNT) -> dict[int, int]:
    """Return a map of whole numbers from JSON, with keys as text there.

    Raises:
        MalformedError: the value is something else; the text has `name` and the key or value.
    """
    return {
        number: restore_number(each, f"{name}[{number}]", values)
        for number, each in restore_keys(value, name, keys).items()
    }


def restore_keys(value: Any, name: str, keys: Range) -> dict[int, Any]:
    """Return a map with whole numbers as keys, in JSON text; the values stay.

    Raises:
        MalformedError: the value is something else; the text has `name` and the key.
    """
    if not isinstance(value, dict):
        raise MalformedError(f"{name} = {value!r:.40} is no table")
    try:
        found = {int(key): each for key, each in value.items()}
    except ValueError:
        raise MalformedError(f"a key of {name} is no whole number") from None
    for number in found:
        keys.check(number, f"a key of {name}")
    return found
