"""Declared tables of settings: a frozen dataclass whose fields say their default, help and bounds.

`config` and `options` declare with `key`; `read` turns a mapping (from TOML or `--set`) into the dataclass
and refuses whatever it does not know, naming the place and the nearest known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from common.errors import ConfigError

Table = TypeVar("Table")
Value = TypeVar("Value")

# TOML's whole numbers, and the wire's.
LARGEST_INTEGER = 2**63 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What a key's value must satisfy, beyond its type."""

    help: str
    choices: tuple[str, ...] = ()
    user_function: bool = False
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None


def key(
    default: Any,
    help: str,  # noqa: A002 - the field's standard word, and click's
    *,
    choices: tuple[str, ...] = (),
    user_function: bool = False,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A field of a table: its default, one line of help, and its bounds.

    Args:
        default: the value where none is given; a list or dict is copied for each instance.
        help: one line, shown by `layerwise config`.
        choices: the words that are allowed.
        user_function: whether `path/to/file.py:function` is allowed beside the choices.
        minimum: smallest number allowed.
        above: largest number not allowed.
        maximum: largest number allowed.
    """
    metadata = {"rule": Rule(help, choices, user_function, minimum, above, maximum)}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def one_a_layer(name: str, value: Value | list[Value], layers: int, what: str) -> list[Value]:
    """A key's value for each of K layers: the one for all, or a list of one each; `what` is their plural.

    Raises:
        ConfigError: a list of another length than K.
    """
    values = value if isinstance(value, list) else [value] * layers
    if len(values) != layers:
        raise ConfigError(f"{name}: {len(values)} {what} for {layers} layers; give one, or one a layer")
    return values


def is_user_function(text: str) -> bool:
    """Whether a value names a function in a user's file, as `path/to/file.py:function`."""
    path, _, function = text.rpartition(":")
    return path.endswith(".py") and function.isidentifier()


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the known word nearest to `word`, else the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known are {', '.join(known)}" if len(known) <= 12 else ""


def table_of(annotation: Any) -> type | None:
    """The dataclass that a field's annotation stands for, if it is a sub-table."""
    return annotation if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) else None


def keys(table: type, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Every key of a table and of its sub-tables by its dotted name."""
    hints = typing.get_type_hints(table)
    found: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(table):
        sub = table_of(hints[field.name])
        found.update(keys(sub, f"{prefix}{field.name}.") if sub else {prefix + field.name: field})
    return found


def read(
    table: type[Table],
    values: Mapping[str, Any],
    prefix: str = "",
    *,
    sources: Mapping[str, str] | None = None,
    known: Iterable[str] = (),
) -> Table:
    """Build a table from a mapping.

    Args:
        table: the frozen dataclass.
        values: what was given; a sub-mapping for each sub-table.
        prefix: dotted name of the table, with its last dot, for messages.
        sources: where each dotted key was given (a file, `--set`), for messages.
        known: all dotted keys, to suggest the nearest across tables.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of bounds.
    """
    sources = sources or {}
    known = list(known) or list(keys(table, prefix))
    hints = typing.get_type_hints(table)
    fields = {field.name: field for field in dataclasses.fields(table)}  # type: ignore[arg-type]
    read_values: dict[str, Any] = {}
    for name, value in values.items():
        dotted = prefix + name
        where = f"{_source(dotted, sources)}{dotted}"
        if name not in fields:
            suggestion = _nearest_key(dotted, known) if prefix else nearest(name, fields)
            raise ConfigError(f"{where}: unknown {'key' if prefix else 'section'}{suggestion}")
        sub = table_of(hints[name])
        if sub is None:
            read_values[name] = _checked(value, hints[name], fields[name].metadata["rule"], where)
        elif isinstance(value, Mapping):
            read_values[name] = read(sub, value, dotted + ".", sources=sources, known=known)
        else:
            raise ConfigError(f"{where}: is a section, not a value; write {dotted}.KEY = VALUE")
    try:
        return table(**read_values)
    except ConfigError as error:
        if not sources:
            raise
        dotted = str(error).partition(":")[0]
        raise ConfigError(f"{_source(dotted, sources)}{error}") from None


def _source(dotted: str, sources: Mapping[str, str]) -> str:
    """Where a key, a table above it or a value within it was given, ready to stand before the key."""
    within = [name for name in sources if name and (dotted + ".").startswith(name + ".")]
    below = [name for name in sources if name.startswith(dotted + ".")]
    source = sources[max(within or below or [""], key=len)] if sources else ""
    return f"{source}: " if source else ""


def _nearest_key(dotted: str, known: list[str]) -> str:
    """Suggest by the last part first (a key in the wrong section), then by the whole name."""
    same_name = [k for k in known if k.rpartition(".")[2] == dotted.rpartition(".")[2]]
    if same_name:
        return f'; did you mean "{same_name[0]}"?'
    close = difflib.get_close_matches(dotted, known, n=1, cutoff=0.0)
    return f'; did you mean "{close[0]}"?' if close else ""


def _checked(value: Any, annotation: Any, rule: Rule, where: str) -> Any:
    value = _typed(value, annotation, where)
    if isinstance(value, str) and rule.choices and value not in rule.choices:
        if rule.user_function and is_user_function(value):
            return value
        more = ", or path/to/file.py:function" if rule.user_function else ""
        raise ConfigError(f'{where}: "{value}" is not one of {", ".join(rule.choices)}{more}')
    numbers = value if isinstance(value, list) else [value]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if rule.minimum is not None and not number >= rule.minimum:
            raise ConfigError(f"{where}: {number} is too small; at least {rule.minimum:g} is needed")
        if rule.above is not None and not number > rule.above:
            raise ConfigError(f"{where}: {number} is too small; it must be above {rule.above:g}")
        if rule.maximum is not None and not number <= rule.maximum:
            raise ConfigError(f"{where}: {number} is too large; at most {rule.maximum:g} is allowed")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", dict: "a table"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "strings", bool: "true and false"}


def _typed(value: Any, annotation: Any, where: str) -> Any:
    """`value` as the annotation asks; a whole number passes as a float, nothing else is converted."""
    if isinstance(annotation, types.UnionType):
        options = [option for option in typing.get_args(annotation) if option is not types.NoneType]
        fitting = [option for option in options if _fits(value, option)]
        if fitting:
            return _typed(value, fitting[0], where)
        raise ConfigError(f"{where}: expected {' or '.join(map(_named, options))}, got {value!r}")
    if not _fits(value, annotation):
        raise ConfigError(f"{where}: expected {_named(annotation)}, got {value!r}")
    _check_representable(value, where)
    return float(value) if annotation is float else value


def _check_representable(value: Any, where: str) -> None:
    """Refuse what neither a file nor a message can hold, within tables and lists too."""
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


def _named(annotation: Any) -> str:
    if typing.get_origin(annotation) is list:
        return f"a list of {_PLURALS[typing.get_args(annotation)[0]]}"
    return _NAMES[typing.get_origin(annotation) or annotation]
