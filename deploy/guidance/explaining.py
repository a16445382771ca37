"""Meaning, default, values and page of configuration keys: `layerwise explain KEY`, and the reference."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
# Pages about single keys.
_CHECKPOINTS = "docs/model.md#other-checkpoints"
_AVERAGE = "docs/methods.md#averaged-weights"
# Page of a section's keys, or of a key that has a page of its own.
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
    "run.keep": _CHECKPOINTS,
    "run.keep_best": _CHECKPOINTS,
    "run.average": _AVERAGE,
    "run.average_horizon": _AVERAGE,
    "network.initial": _CHECKPOINTS,
    "cluster.synthesis": "README.md#m-in-the-master",
    "cluster.wire": "docs/performance.md#narrower-messages",
    "cluster.autocast": "docs/how-to/gpu.md#choose-the-precision",
    "cluster.compile": "docs/performance.md#compiled-layers",
    "cluster.stores": "docs/decisions/stores.md",
}
OTHER_PAGE = "README.md#documentation"
OWN_FUNCTION = "path/to/file.py:function"


@dataclass(frozen=True)
class Description:
    """Facts about a key.

    Attributes:
        name: dotted.
        help: meaning, without the values.
        default: value where none is given, as TOML, or "unset".
        value: type and bounds; empty where `choices` has the values.
        choices: meaning of each value that a registry has, with the keys that it heeds.
        heeded: values of other keys with which the key has a meaning, by their key; empty: always.
        chosen: key and values, as TOML, of the rows that declare an option; empty for other keys.
    """

    name: str
    help: str
    default: str
    value: str
    choices: Mapping[str, str]
    heeded: Mapping[str, Sequence[str]]
    chosen: tuple[str, Sequence[str]] | None = None


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
        return list(_explain_key(describe(found[0])))
    if found:
        raise ConfigError(f"explain {name}: {len(found)} keys have this name; give {' or '.join(found)}")
    table, _, _key = name.rpartition(".")
    described = [each for each in describe_options(table) if each.name == name]
    if not described:
        options = [f"{table}.{key}" for table, (_, rows) in OPTIONS.items() for key in _options(rows)]
        raise ConfigError(f"explain {name}: unknown key{settings.nearest(name, [*fields, *options])}")
    return list(_explain_option(described))


def describe(name: str) -> Description:
    """Describe a key by its dotted name."""
    heeded = {
        chooser: [files.format_value(row) for row in rows]
        for chooser, rows in settings.heeding(Config, name).items()
    }
    return _describe(name, settings.keys(Config)[name], _annotation(Config, name), heeded)


def describe_options(table: str) -> list[Description]:
    """Describe the keys of a table of options; a key that rows declare differently comes several times.

    Args:
        table: dotted name of the table, such as "network.options"; other names have no options.
    """
    if table not in OPTIONS:
        return []
    chooser, registry = OPTIONS[table]
    found: list[tuple[Description, list[str]]] = []
    for row in registry.values():
        for key, field in settings.keys(row.options).items():
            described = _describe(f"{table}.{key}", field, _annotation(row.options, key), {})
            names = next((names for each, names in found if each == described), None)
            if names is None:
                found.append((described, names := []))
            names.append(files.format_value(row.name))
    return [dataclasses.replace(each, chosen=(chooser, names)) for each, names in found]


def find_page(name: str) -> str:
    """Return the page of the documentation about a key or a section."""
    return PAGES.get(name) or PAGES.get(name.partition(".")[0], OTHER_PAGE)


def find_key(text: str) -> str | None:
    """Return the first key of the configuration that a message names; None: it names none."""
    words = [word.strip("\"'():;,`") for word in text.split()]
    known = settings.keys(Config)
    return next((word for word in words if word in known), None)


def list_keys() -> list[str]:
    """List every key and every section."""
    return [*(field.name for field in dataclasses.fields(Config)), *settings.keys(Config)]


def _explain_key(key: Description) -> Iterator[str]:
    yield f"{key.name}: {key.help}"
    yield f"default: {key.default}"
    yield from _explain_values(key)
    for chooser, values in key.heeded.items():
        yield f"heeded with {chooser} = {' or '.join(values)}"
    if key.name in OPTIONS:
        chooser, registry = OPTIONS[key.name]
        yield f"options, by {chooser}:"
        for row in registry.values():
            listed = ", ".join(settings.keys(row.options)) or "none"
            yield f"  {row.name}: {listed}"
    yield f"page: {find_page(key.name)}"


def _explain_option(described: Sequence[Description]) -> Iterator[str]:
    """Explain a key of a table of options, for each row that has it."""
    for option in described:
        assert option.chosen is not None
        chooser, values = option.chosen
        yield f"{option.name}, with {chooser} = {' or '.join(values)}: {option.help}"
        yield f"default: {option.default}"
    yield from _explain_values(described[-1])
    yield f"page: {find_page(described[-1].name)}"


def _explain_values(key: Description) -> Iterator[str]:
    if key.value:
        yield f"value: {key.value}"
        return
    yield f"values of {key.name}:"
    width = max(len(name) for name in key.choices if name != OWN_FUNCTION)
    for name, meaning in key.choices.items():
        yield f"  {name}, {meaning}" if name == OWN_FUNCTION else f"  {name:<{width}}  {meaning}"


def _describe(
    name: str, field: dataclasses.Field[Any], annotation: Any, heeded: Mapping[str, Sequence[str]]
) -> Description:
    rule: KeyRule = field.metadata["rule"]
    text = rule.help if rule.registry is None else rule.subject or "one of these values"
    default = settings.default(field)
    shown = "unset" if default is None else files.format_value(default)
    value = "" if rule.registry else _describe_value(rule, annotation)
    return Description(name, text, shown, value, _describe_choices(rule), heeded)


def _describe_value(rule: KeyRule, annotation: Any) -> str:
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("at least", rule.minimum), ("above", rule.above), ("at most", rule.maximum))
        if bound is not None
    ]
    return ", ".join([describe_type(annotation), *bounds])


def _describe_choices(rule: KeyRule) -> dict[str, str]:
    """Return the meaning of each value of a key with a registry, and what the value heeds."""
    found = {
        row.name: row.help + (f"; heeds {', '.join(row.heeds)}" if row.heeds else "")
        for row in (rule.registry or {}).values()
    }
    return {**found, OWN_FUNCTION: "of your own"} if rule.user_function else found


def _options(rows: Registry[Any]) -> list[str]:
    return [key for row in rows.values() for key in settings.keys(row.options)]


def _annotation(table: type, dotted: str) -> Any:
    """Return the type of a dotted key of a table."""
    for part in dotted.split("."):
        table = typing.get_type_hints(table)[part]
    return table
