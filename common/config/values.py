"""Values of configuration keys, checked against a key's annotation and rule."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

from common.errors import ConfigError
from common.registry import Registry

# Largest whole number that TOML and the wire can carry.
LARGEST_INTEGER = 2**63 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRule:
    """Requirements on a key's value, beyond the type.

    Attributes:
        help: one line for `layerwise config`.
        registry: rows whose names are the allowed words.
        prefix: start of the names that the rows heed in the key's section: "server_" makes "momentum" the
            key "server_momentum".
        user_function: whether `path/to/file.py:function` is allowed beside the rows.
        minimum: smallest number allowed.
        above: largest number not allowed.
        maximum: largest number allowed.
        subject: the help without the rows'.
    """

    help: str
    registry: Registry[Any] | None = None
    prefix: str = ""
    user_function: bool = False
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    subject: str = ""


def is_user_function(text: str) -> bool:
    """Whether a value names a function in a user's file, as `path/to/file.py:function`."""
    path, _, function = text.rpartition(":")
    return path.endswith(".py") and function.isidentifier()


def check_value(value: Any, annotation: Any, rule: KeyRule, where: str) -> Any:
    """Return a key's value in the type of its annotation.

    A whole number becomes a float where a float is expected; nothing else is converted.

    Args:
        value: as TOML gives it.
        annotation: resolved type hint of the field.
        rule: further requirements.
        where: source and dotted name of the key, for messages.

    Raises:
        ConfigError: a wrong type, an unknown word, or a number out of bounds.
    """
    value = _convert(value, annotation, where)
    if isinstance(value, str) and rule.registry is not None and value not in rule.registry:
        if rule.user_function and is_user_function(value):
            return value
        more = ", or path/to/file.py:function" if rule.user_function else ""
        raise ConfigError(f'{where}: "{value}" is not one of {", ".join(rule.registry)}{more}')
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_bounds(number, rule, where)
    return value


def _check_bounds(number: float, rule: KeyRule, where: str) -> None:
    if rule.minimum is not None and not number >= rule.minimum:
        raise ConfigError(f"{where}: {number} is too small; at least {rule.minimum:g} is needed")
    if rule.above is not None and not number > rule.above:
        raise ConfigError(f"{where}: {number} is too small; it must be above {rule.above:g}")
    if rule.maximum is not None and not number <= rule.maximum:
        raise ConfigError(f"{where}: {number} is too large; at most {rule.maximum:g} is allowed")


_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", dict: "a table"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "strings", bool: "true and false"}


def _convert(value: Any, annotation: Any, where: str) -> Any:
    """Return the value in the annotation's type."""
    if isinstance(annotation, types.UnionType):
        options = [option for option in typing.get_args(annotation) if option is not types.NoneType]
        fitting = [option for option in options if _fits(value, option)]
        if fitting:
            return _convert(value, fitting[0], where)
        raise ConfigError(f"{where}: expected {describe_type(annotation)}, got {value!r}")
    if not _fits(value, annotation):
        raise ConfigError(f"{where}: expected {describe_type(annotation)}, got {value!r}")
    _check_representable(value, where)
    return float(value) if annotation is float else value


def _check_representable(value: Any, where: str) -> None:
    """Refuse values that neither a file nor a message can hold, within tables and lists too."""
    if isinstance(value, dict | list):
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_representable(each, where)
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ConfigError(f"{where}: a number of more than 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, got {value}")
    elif isinstance(value, str) and not _is_text(value):
        raise ConfigError(f"{where}: {value!r} is not UTF-8 text without NUL")


def _is_text(value: str) -> bool:
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _fits(value: Any, annotation: Any) -> bool:
    if typing.get_origin(annotation) is list:
        (item,) = typing.get_args(annotation)
        return isinstance(value, list) and all(_fits(each, item) for each in value)
    kind = typing.get_origin(annotation) or annotation
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def describe_type(annotation: Any) -> str:
    """Describe the type of a key for people."""
    if isinstance(annotation, types.UnionType):
        options = [option for option in typing.get_args(annotation) if option is not types.NoneType]
        return " or ".join(map(describe_type, options))
    if typing.get_origin(annotation) is list:
        return f"a list of {_PLURALS[typing.get_args(annotation)[0]]}"
    return _NAMES[typing.get_origin(annotation) or annotation]
