"""`layerwise explain KEY`: meaning, default, allowed values, who heeds the key, and the page about it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from common.config import files, settings
from common.config.models import MODELS
from common.config.sections import Config
from common.config.synthesizers import GRADIENTS, INPUTS
from common.config.tasks import TASKS
from common.config.time import TIMES
from common.config.values import KeyRule, describe_type
from common.errors import ConfigError
from common.registry import Registry

# Tables of options: the key that chooses the row, and the rows, whose `options` declare the keys.
OPTIONS: Mapping[str, tuple[str, Registry[Any]]] = {
    "network.options": ("network.model", MODELS),
    "task.options": ("task.kind", TASKS),
    "decoupling.gradient_options": ("decoupling.gradient", GRADIENTS),
    "decoupling.input_options": ("decoupling.input", INPUTS),
    "time.options": ("time.gradient", TIMES.select(lambda row: row.synthesizes)),
}
# Page of a section's keys.
PAGES: Mapping[str, str] = {
    "run": "README.md#train-on-this-machine",
    "data": "docs/data.md",
    "network": "README.md#your-own-network-your-own-data",
    "task": "docs/methods.md#tasks",
    "time": "docs/methods.md#time",
    "decoupling": "docs/methods.md",
    "optimizer": "docs/methods.md#a-step-of-the-optimizer",
    "downpour": "README.md#several-slaves-a-layer",
    "cluster": "README.md#profiles-how-activations-and-gradients-travel",
    "simulation": "README.md#without-a-cluster",
    "security": "docs/tls.md",
}
OTHER_PAGE = "README.md#documentation"


def explain(name: str) -> list[str]:
    """Explain a key, or every key of a section, in lines.

    Args:
        name: "section.key", the key alone where one section has it, or a section.

    Raises:
        ConfigError: no such key; the message names the nearest.
    """
    fields = settings.keys(Config)
    if name in {field.name for field in dataclasses.fields(Config)}:
        inside = [key for key in fields if key.startswith(f"{name}.")]
        width = max(map(len, inside))
        helps = [f"{key:<{width}}  {fields[key].metadata['rule'].help}" for key in inside]
        return [*helps, f"page: {find_page(name)}"]
    found = [key for key in fields if name in (key, key.rpartition(".")[2])]
    if len(found) == 1:
        return list(_explain_key(found[0], fields[found[0]]))
    if found:
        raise ConfigError(f"explain {name}: {len(found)} keys have this name; give {' or '.join(found)}")
    lines = list(_explain_option(name))
    if not lines:
        options = [f"{table}.{key}" for table, (_, rows) in OPTIONS.items() for key in _options(rows)]
        raise ConfigError(f"explain {name}: unknown key{settings.nearest(name, [*fields, *options])}")
    return lines


def find_page(name: str) -> str:
    """Return the page of the documentation about a key or a section."""
    return PAGES.get(name.partition(".")[0], OTHER_PAGE)


def find_key(text: str) -> str | None:
    """Return the first key of the configuration that a message names; None: it names none."""
    words = [word.strip("\"'():;,`") for word in text.split()]
    known = settings.keys(Config)
    return next((word for word in words if word in known), None)


def list_keys() -> list[str]:
    """List every key and every section."""
    return [*(field.name for field in dataclasses.fields(Config)), *settings.keys(Config)]


def _explain_key(name: str, field: dataclasses.Field[Any]) -> Iterator[str]:
    yield f"{name}: {_help(field)}"
    yield f"default: {_default(field)}"
    yield from _values(name, field, _annotation(Config, name))
    for chooser, rows in settings.heeding(Config, name).items():
        yield f"heeded with {chooser} = {' or '.join(map(files.format_value, rows))}"
    if name in OPTIONS:
        chooser, registry = OPTIONS[name]
        yield f"options, by {chooser}:"
        for row in registry.values():
            listed = ", ".join(settings.keys(row.options)) or "none"
            yield f"  {row.name}: {listed}"
    yield f"page: {find_page(name)}"


def _explain_option(name: str) -> Iterator[str]:
    """Explain a key of a table of options, for each row that has it; nothing for other names."""
    table, _, key = name.rpartition(".")
    if table not in OPTIONS:
        return
    chooser, rows = OPTIONS[table]
    seen: dict[tuple[str, str], list[str]] = {}
    for row in rows.values():
        field = settings.keys(row.options).get(key)
        if field is not None:
            about = (_help(field), _default(field))
            seen.setdefault(about, []).append(row.name)
            last = (field, row.options)
    for (text, default), names in seen.items():
        yield f"{name}, with {chooser} = {' or '.join(map(files.format_value, names))}: {text}"
        yield f"default: {default}"
    if seen:
        yield from _values(key, last[0], _annotation(last[1], key))
        yield f"page: {find_page(name)}"


def _options(rows: Registry[Any]) -> list[str]:
    return [key for row in rows.values() for key in settings.keys(row.options)]


def _help(field: dataclasses.Field[Any]) -> str:
    """Return a field's help without the list of the rows, which follows."""
    rule: KeyRule = field.metadata["rule"]
    return rule.help if rule.registry is None else rule.subject or "one of these values"


def _default(field: dataclasses.Field[Any]) -> str:
    value = settings.default(field)
    return "unset" if value is None else files.format_value(value)


def _values(name: str, field: dataclasses.Field[Any], annotation: Any) -> Iterator[str]:
    """Describe the allowed values of a key."""
    rule: KeyRule = field.metadata["rule"]
    if rule.registry is None:
        bounds = [
            f"{words} {bound:g}"
            for words, bound in (("at least", rule.minimum), ("above", rule.above), ("at most", rule.maximum))
            if bound is not None
        ]
        yield f"value: {', '.join([describe_type(annotation), *bounds])}"
        return
    yield f"values of {name}:"
    width = max(map(len, rule.registry))
    for row in rule.registry.values():
        heeds = f"; heeds {', '.join(row.heeds)}" if row.heeds else ""
        yield f"  {row.name:<{width}}  {row.help}{heeds}"
    if rule.user_function:
        yield "  path/to/file.py:function, of your own"


def _annotation(table: type, dotted: str) -> Any:
    """Return the type of a dotted key of a table."""
    for part in dotted.split("."):
        table = typing.get_type_hints(table)[part]
    return table
