"""Tables of settings: frozen dataclasses whose fields declare default, help and bounds.

Sections and options are declared with `key` and `choice`. `read` turns a mapping (from TOML or `--set`) into
the dataclass and refuses unknown keys, naming the place and the nearest known key; `check_heeded` refuses
keys that the chosen rows leave without a meaning.
"""

from __future__ import annotations

import dataclasses
import difflib
import operator
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from common.config.values import KeyRule, check_value
from common.errors import ConfigError
from common.registry import Registry

Table = TypeVar("Table")
Value = TypeVar("Value")


def key(
    default: Any,
    help: str,  # noqa: A002 - the field's standard word, and click's
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declare a field of a table: default, one line of help, and bounds as in `KeyRule`.

    A default that is a list or a dict is copied for every instance.
    """
    metadata = {"rule": KeyRule(help, minimum=minimum, above=above, maximum=maximum)}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def choice(
    default: str | None,
    registry: Registry[Any],
    subject: str = "",
    *,
    prefix: str = "",
    user_function: bool = False,
) -> Any:
    """Declare a field whose value is the name of a row.

    Args:
        default: name of the row that applies where none is given; None: unset.
        registry: the rows; their help lines make up the field's.
        subject: words before the rows' help lines.
        prefix: as in `KeyRule`.
        user_function: whether `path/to/file.py:function` is allowed beside the rows.
    """
    more = ", or path/to/file.py:function" if user_function else ""
    text = f"{subject}{': ' if subject else ''}{registry.describe()}{more}"
    rule = KeyRule(text, registry, prefix, user_function, subject=subject)
    return dataclasses.field(default=default, metadata={"rule": rule})


def broadcast(name: str, value: Value | list[Value], layers: int, plural: str) -> list[Value]:
    """Return a list of K values, from a single value for all layers or from a list.

    Raises:
        ConfigError: a list of another length than K; `plural` names its elements.
    """
    values = value if isinstance(value, list) else [value] * layers
    if len(values) != layers:
        raise ConfigError(f"{name}: {len(values)} {plural} for {layers} layers; give one, or one a layer")
    return values


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the known word nearest to `word`, else a list of the known words."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known are {', '.join(known)}" if len(known) <= 12 else ""


def keys(table: type, prefix: str = "") -> Mapping[str, dataclasses.Field[Any]]:
    """Return every key of a table and of sub-tables by dotted name."""
    hints = typing.get_type_hints(table)
    found: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(table):
        sub = _sub_table(hints[field.name])
        found.update(keys(sub, f"{prefix}{field.name}.") if sub else {prefix + field.name: field})
    return found


def check_heeded(config: Any, prefix: str = "") -> None:
    """Refuse changed keys that a row of a registry heeds but the chosen row does not.

    Args:
        config: the table, with sub-tables.
        prefix: dotted name of the table, with its last dot.

    Raises:
        ConfigError: a refused key; the message names the choice and the rows that heed the key.
    """
    fields = keys(type(config), prefix)
    values = {name: operator.attrgetter(name.removeprefix(prefix))(config) for name in fields}
    changed = [name for name, field in fields.items() if values[name] != default(field)]
    for name in changed:
        for chooser, heeding in _heeding(fields, name).items():
            if (
                values[chooser] in fields[chooser].metadata["rule"].registry
                and values[chooser] not in heeding
            ):
                others = " or ".join(f'"{each}"' for each in heeding)
                raise ConfigError(
                    f'{name}: unknown key for {chooser} = "{values[chooser]}"; leave it out, or choose '
                    f"{chooser} = {others}"
                )


def heeding(table: type, dotted: str) -> Mapping[str, list[str]]:
    """Return the names of the rows that heed a key, by the key that chooses them; empty: every row does."""
    return _heeding(keys(table), dotted)


def _heeding(fields: Mapping[str, dataclasses.Field[Any]], dotted: str) -> Mapping[str, list[str]]:
    found = {}
    for chooser, field in fields.items():
        rule: KeyRule = field.metadata["rule"]
        start = chooser.rpartition(".")[0] + "." + rule.prefix
        rows = [row.name for row in (rule.registry or {}).values() if _covers(row.heeds, start, dotted)]
        if rows:
            found[chooser] = rows
    return found


def _covers(heeds: Collection[str], start: str, dotted: str) -> bool:
    """Whether the names that a row heeds, in the section that begins with `start`, cover a dotted key."""
    full = [name if "." in name else start + name for name in heeds]
    return any(dotted == name or (name.endswith(".") and dotted.startswith(name)) for name in full)


def default(field: dataclasses.Field[Any]) -> Any:
    """Return the value that a field has where none is given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


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
        values: given values; a sub-mapping for each sub-table.
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
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        dotted = prefix + name
        where = f"{_source(dotted, sources)}{dotted}"
        if name not in fields:
            suggestion = _nearest_key(dotted, known) if prefix else nearest(name, fields)
            raise ConfigError(f"{where}: unknown {'key' if prefix else 'section'}{suggestion}")
        sub = _sub_table(hints[name])
        if sub is None:
            arguments[name] = check_value(value, hints[name], fields[name].metadata["rule"], where)
        elif isinstance(value, Mapping):
            arguments[name] = read(sub, value, dotted + ".", sources=sources, known=known)
        else:
            raise ConfigError(f"{where}: is a section, not a value; write {dotted}.KEY = VALUE")
    try:
        return table(**arguments)
    except ConfigError as error:
        if not sources:
            raise
        dotted = str(error).partition(":")[0]
        raise ConfigError(f"{_source(dotted, sources)}{error}") from None


def _sub_table(annotation: Any) -> type | None:
    """Return the dataclass that an annotation stands for, or None for a plain value."""
    return annotation if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) else None


def _source(dotted: str, sources: Mapping[str, str]) -> str:
    """Return where a key, a table above it or a value within it was given, ready to precede the key."""
    within = [name for name in sources if name and (dotted + ".").startswith(name + ".")]
    below = [name for name in sources if name.startswith(dotted + ".")]
    source = sources[max(within or below or [""], key=len)] if sources else ""
    return f"{source}: " if source else ""


def _nearest_key(dotted: str, known: list[str]) -> str:
    """Suggest a key of the same last part (in the wrong section) first, then the nearest whole name."""
    namesakes = [k for k in known if k.rpartition(".")[2] == dotted.rpartition(".")[2]]
    if namesakes:
        return f'; did you mean "{namesakes[0]}"?'
    close = difflib.get_close_matches(dotted, known, n=1, cutoff=0.0)
    return f'; did you mean "{close[0]}"?' if close else ""
