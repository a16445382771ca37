"""Configuration files: TOML in and out, overrides, and paths made absolute.

Imports no torch, so that a refused configuration answers at once.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from common.bounds import MOST_CONFIG
from common.config import settings
from common.config.data import DATASETS, TOKENS
from common.config.profiles import SYNTHESES
from common.config.sections import Config
from common.config.security import SecurityConfig
from common.config.tasks import TASKS
from common.config.unlocks import UNLOCKS
from common.config.values import is_user_function
from common.errors import ConfigError

# Of a described configuration: where comments begin, and the longest line.
COMMENT_COLUMN, COLUMNS = 33, 110
# Most layers whose late gradients a correction mends (docs/results.md, "Late gradients in eight layers").
MOST_LATE = 4


def parse(text: str, source: str) -> Config:
    """Read a configuration from TOML text; `source` is its name in messages.

    Raises:
        ConfigError: not TOML, an unknown key, or a value that is refused.
    """
    return _read(_toml(text, source), [], source)


def load(path: Path | None, overrides: Iterable[str] = (), given_by: str = "--set") -> Config:
    """Read a configuration file, then apply `--set section.key=value` overrides; the last wins.

    A relative `data.path`, file of `data.tokens`, user's network, data, loss or v becomes absolute: the
    current folder is searched first, then the folder of the file.

    Args:
        path: the file; None: the default configuration.
        overrides: each "section.key=value".
        given_by: source of the overrides, for messages.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, or a value that is refused.
    """
    values = {} if path is None else read_values(path)
    if "compare" in values:
        raise ConfigError(
            f"{path}: compare: is a section for `layerwise compare`, which runs the file's variants; for one "
            "run, give a file without that section"
        )
    return build(values, overrides, path, given_by)


def read_values(path: Path) -> dict[str, Any]:
    """Return the values in a configuration file, unchecked.

    Raises:
        ConfigError: no file of the name, not TOML, or longer than a message may be.
    """
    try:
        # Some editors begin a file with a byte order mark.
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MOST_CONFIG + 1)
        if len(text) > MOST_CONFIG:
            raise ConfigError(f"{path}: has over {MOST_CONFIG:,} characters; give the path of a TOML file")
        return _toml(text, str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}; give the path of a TOML file") from None


def build(
    values: dict[str, Any], overrides: Iterable[str], path: Path | None, given_by: str = "--set"
) -> Config:
    """Build the configuration from the values of the file at `path`, as `load` does.

    Raises:
        ConfigError: an unknown key, or a value that is refused.
    """
    config = _read(copy.deepcopy(values), overrides, str(path) if path else "", given_by)
    return _anchor_paths(config, path.parent if path else Path())


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # thousands of digits, or of nested arrays
        raise ConfigError(f"{source}: is not TOML: {error}") from None


def _read(values: dict[str, Any], overrides: Iterable[str], source: str, given_by: str = "--set") -> Config:
    sources = {"": source}
    for override in overrides:
        name, value = _override(override)
        _assign(values, name, value)
        sources[name] = given_by
    _choose_task(values)
    _choose_unlock(values)
    return settings.read(Config, values, sources=sources)


def _choose_task(values: dict[str, Any]) -> None:
    """Set `task.kind`, where it is unset, to the task of the chosen data set."""
    data, task = values.get("data"), values.setdefault("task", {})
    if not isinstance(data, dict) or not isinstance(task, dict):
        return
    row = DATASETS.get(str(data.get("dataset")))
    if row is not None:
        task.setdefault("kind", row.task)


def _choose_unlock(values: dict[str, Any]) -> None:
    """Let a language model in few layers learn from late, corrected gradients, unless a key objects."""
    names = ("decoupling", "task", "network", "time", "cluster")
    sections = [values.setdefault(name, {}) for name in names]
    if not all(isinstance(section, dict) for section in sections):
        return
    decoupling, task, network, time, cluster = sections
    row, served = TASKS.get(str(task.get("kind"))), SYNTHESES.get(str(cluster.get("synthesis")))
    cuts = network.get("cuts")
    layers = len(cuts) + 1 if isinstance(cuts, list) else network.get("layers")
    if row is None or not row.late or "window" in time or (served and served.served):
        return
    few = isinstance(layers, int) and layers <= MOST_LATE
    if few and decoupling.keys() <= set(UNLOCKS["delayed"].heeds):
        decoupling["unlock"] = "delayed"
        if "backward" not in decoupling:
            decoupling.setdefault("correction", "proximal")


def _override(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or "." not in name or not all(name.split(".")):
        raise ConfigError(f"--set {text}: expected section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        parsed = {}
    return name, parsed["value"] if parsed.keys() == {"value"} else value.strip()


def write_override(name: str, value: Any) -> str:
    """Return the text "section.key=value" that gives a key a value, which TOML must have.

    Raises:
        ConfigError: TOML has no such value.
    """
    try:
        text = format_value(value)
        if isinstance(value, str) and _override(f"{name}={value}")[1] == value:
            text = value  # as people write words
    except TypeError:
        raise ConfigError(
            f"{name}: {type(value).__name__} is no value of TOML; give text, a number, true or false, a list "
            "or a table, and leave out a key that is to stay unset"
        ) from None
    return f"{name}={text}"


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *tables, last = dotted.split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {dotted}: {table} is a value, not a section")
        values = inner
    values[last] = value


def map_paths(config: Config, change: Callable[[str], str]) -> Config:
    """Return the configuration with every path of a file or folder in it changed."""

    def code(text: str) -> str:
        path, _, function = text.rpartition(":")
        return f"{change(path)}:{function}" if is_user_function(text) else text

    data = dataclasses.replace(config.data, dataset=code(config.data.dataset))
    if data.path is not None:
        data = dataclasses.replace(data, path=change(data.path))
    if data.tokens not in TOKENS:
        data = dataclasses.replace(data, tokens=change(data.tokens))
    network = dataclasses.replace(config.network, model=code(config.network.model))
    if network.initial is not None:
        network = dataclasses.replace(network, initial=change(network.initial))
    task = dataclasses.replace(config.task, kind=code(config.task.kind))
    decoupling = config.decoupling
    if decoupling.own_v is not None:
        options = {**decoupling.gradient_options, "v": code(decoupling.own_v)}
        decoupling = dataclasses.replace(decoupling, gradient_options=options)
    given = dataclasses.asdict(config.security)
    security = SecurityConfig(**{name: file and change(file) for name, file in given.items()})
    return dataclasses.replace(
        config, data=data, network=network, task=task, decoupling=decoupling, security=security
    )


def _anchor_paths(config: Config, folder: Path) -> Config:
    def anchor(text: str) -> str:
        here = Path(text)
        beside = folder / text
        return os.path.abspath(beside if os.path.exists(beside) and not os.path.exists(here) else here)

    anchored = map_paths(config, anchor)
    # A mistyped kind of tokens is no file: the data set names the kinds.
    if not os.path.exists(anchored.data.tokens):
        data = dataclasses.replace(anchored.data, tokens=config.data.tokens)
        anchored = dataclasses.replace(anchored, data=data)
    return anchored


def describe(config: Config) -> str:
    """Return all keys with values and help, as TOML for `load`."""
    lines: list[str] = []
    for title, table in _tables(config, ""):
        lines += [f"[{title}]"]
        for field in dataclasses.fields(table):
            value = getattr(table, field.name)
            if not dataclasses.is_dataclass(value):
                line = f"# {field.name} =" if value is None else f"{field.name} = {format_value(value)}"
                lines += _commented(line, field.metadata["rule"].help)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _commented(line: str, text: str) -> list[str]:
    """Return a line with a comment, which goes on below in its column where it is long."""
    head = f"{line:<{COMMENT_COLUMN - 1}} # "
    below = f"{'':<{COMMENT_COLUMN}}# "
    # Behind a long value there may be room for no word: words stay whole.
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=head,
        subsequent_indent=below,
        break_on_hyphens=False,
        break_long_words=False,
    )


def format_value(value: Any) -> str:
    """Format a value as TOML on one line; tomli_w spreads tables and lists over several."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_quoted(name)} = {format_value(each)}" for name, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    return tomli_w.dumps({"v": value}).partition("=")[2].strip()


def _quoted(name: str) -> str:
    """Quote a key where TOML needs quotes."""
    return tomli_w.dumps({name: 0}).rpartition(" = ")[0]


def _tables(table: Any, prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for field in dataclasses.fields(table):
        sub = getattr(table, field.name)
        if dataclasses.is_dataclass(sub):
            found += [(prefix + field.name, sub), *_tables(sub, f"{prefix}{field.name}.")]
    return found
