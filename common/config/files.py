"""Configuration files: TOML in and out, overrides, and paths made absolute.

Imports no torch: a refused configuration answers at once.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from common.config import settings
from common.config.sections import Config
from common.config.settings import is_user_function
from common.errors import ConfigError


def parse(text: str, source: str) -> Config:
    """Read a configuration from TOML text; `source` names it in messages.

    Raises:
        ConfigError: not TOML, an unknown key, or a value that cannot be.
    """
    return _read(_toml(text, source), [], source)


def load(path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file, then apply `--set section.key=value` overrides, the last one winning.

    A relative `data.path`, user's network or user's data is made absolute: it is looked for from the current
    folder first, then from the configuration's own.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, or a value that cannot be.
    """
    values = {} if path is None else values_of(path)
    if "compare" in values:
        raise ConfigError(
            f"{path}: compare: is of `layerwise compare`, which runs the file's variants; for one run, give "
            "a file without that section"
        )
    return of_values(values, overrides, path)


def values_of(path: Path) -> dict[str, Any]:
    """What a configuration file says, unchecked.

    Raises:
        ConfigError: no such file, or not TOML.
    """
    try:
        return _toml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}; give the path of a TOML file") from None


def of_values(values: dict[str, Any], overrides: Iterable[str], path: Path | None) -> Config:
    """The configuration of what the file at `path` says, as `load` makes it.

    Raises:
        ConfigError: an unknown key, or a value that cannot be.
    """
    config = _read(copy.deepcopy(values), overrides, str(path) if path else "")
    return _anchored(config, path.parent if path else Path())


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, arrays as deep
        raise ConfigError(f"{source}: is not TOML: {error}") from None


def _read(values: dict[str, Any], overrides: Iterable[str], source: str) -> Config:
    sources = {"": source}
    for override in overrides:
        name, value = _override(override)
        _assign(values, name, value)
        sources[name] = "--set"
    return settings.read(Config, values, sources=sources)


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


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *tables, last = dotted.split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {dotted}: {table} is a value, not a section")
        values = inner
    values[last] = value


def _anchored(config: Config, folder: Path) -> Config:
    def absolute(text: str) -> str:
        here = Path(text)
        beside = folder / text
        return os.path.abspath(beside if os.path.exists(beside) and not os.path.exists(here) else here)

    def anchored(text: str) -> str:
        path, _, function = text.rpartition(":")
        return f"{absolute(path)}:{function}" if is_user_function(text) else text

    data = dataclasses.replace(config.data, dataset=anchored(config.data.dataset))
    if data.path is not None:
        data = dataclasses.replace(data, path=absolute(data.path))
    network = dataclasses.replace(config.network, model=anchored(config.network.model))
    return dataclasses.replace(config, data=data, network=network)


def described(config: Config) -> str:
    """Every key with its value and one line of help, as TOML that can be edited and given back."""
    lines: list[str] = []
    for title, table in _tables(config, ""):
        lines += [f"[{title}]"]
        for field in dataclasses.fields(table):
            value = getattr(table, field.name)
            if not dataclasses.is_dataclass(value):
                line = f"# {field.name} =" if value is None else f"{field.name} = {_inline(value)}"
                lines.append(f"{line:<32} # {field.metadata['rule'].help}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _inline(value: Any) -> str:
    """A value on one line, as tomli_w writes none but the plain ones."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_quoted(name)} = {_inline(each)}" for name, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return tomli_w.dumps({"v": value}).partition("=")[2].strip()


def _quoted(name: str) -> str:
    """A key, in quotes where TOML needs them."""
    return tomli_w.dumps({name: 0}).rpartition(" = ")[0]


def _tables(table: Any, prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for field in dataclasses.fields(table):
        sub = getattr(table, field.name)
        if dataclasses.is_dataclass(sub):
            found += [(prefix + field.name, sub), *_tables(sub, f"{prefix}{field.name}.")]
    return found
