"""Configurations from Python: keys as keyword arguments, functions in place of `path/to/file.py:function`."""

from __future__ import annotations

import contextlib
import inspect
import operator
import os
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

from common.config import files, settings
from common.config.sections import Config
from common.config.settings import nearest
from common.config.user_code import running_file
from common.errors import ConfigError, from_os_error
from deploy.engines.placement import ENGINES, Placement

# Something that names a configuration: itself, or the path of a TOML file.
Source = Config | str | os.PathLike[str] | None


def configure(source: Source, keys: Mapping[str, Any]) -> Config:
    """Build a configuration from a source, with keys on top.

    Args:
        source: a configuration or the path of a TOML file; None: the default.
        keys: values by "section.key".

    Raises:
        ConfigError: an unknown key, or a value that is refused.
    """
    overrides = write_overrides(keys)
    if isinstance(source, Config):
        return files.build(read_values(source), overrides, None, "keyword")
    return files.load(find_path(source), overrides, "keyword")


def read_values(source: Source) -> dict[str, Any]:
    """Return the values that a source gives, by section.

    Raises:
        ConfigError: the source is neither a configuration nor a readable TOML file.
    """
    if isinstance(source, Config):
        return tomllib.loads(source.to_toml())
    path = find_path(source)
    return {} if path is None else files.read_values(path)


def find_path(source: Source) -> Path | None:
    """Return the path of a source's file; None: the source is no file.

    Raises:
        ConfigError: the source is none.
    """
    if source is None or isinstance(source, Config):
        return None
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(
            f"config: expected the path of a TOML file or a layerwise.Config, got {source!r}; keys are "
            'given as **{"section.key": value}'
        )
    return Path(source)


def write_overrides(keys: Mapping[str, Any]) -> list[str]:
    """Return the overrides "section.key=value" of these keys.

    Raises:
        ConfigError: a name without a section, or a value that no configuration has.
    """
    return [write(name, value) for name, value in keys.items()]


def write(name: str, value: Any) -> str:
    """Return the override "section.key=value" of a key.

    Raises:
        ConfigError: a name without a section, or a value that no configuration has.
    """
    if "." not in name:
        known = [each for each in settings.keys(Config) if each.rpartition(".")[2] == name]
        raise ConfigError(
            f"{name}: no such argument; keys of the configuration are given as "
            f'**{{"section.key": value}}{nearest(name, known) if known else ""}'
        )
    return files.write_override(name, _plain(name, value))


def write_choices(over: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """Return for each key the overrides "section.key=value" of the values to try.

    Raises:
        ConfigError: a name without a section, no list of values, or a value that no configuration has.
    """
    listed = {name: check_list(f"over: {name}", tried) for name, tried in over.items()}
    for name, tried in listed.items():
        if not tried:
            raise ConfigError(f"over: {name}: the list of values to try is empty; give one value at least")
    return [[write(name, each) for each in tried] for name, tried in listed.items()]


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return a count, an argument of the interface.

    Raises:
        ConfigError: the value is no whole number, or below the least.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or operator.index(value) < least:
        raise ConfigError(f"{name}: expected a whole number, at least {least}, got {value!r}")
    return operator.index(value)


def place(on: str, address: str | None, cpus: int | None, gpus: int | None, memory: str | None) -> Placement:
    """Return the placement of the arguments.

    Raises:
        ConfigError: there is no such engine, or an argument has no meaning with the engine.
    """
    if on not in ENGINES:
        raise ConfigError(f"on: {on!r} is not one of {', '.join(ENGINES)}")
    return Placement(
        on,
        address,
        None if cpus is None else check_count("cpus", cpus),
        None if gpus is None else check_count("gpus", gpus, least=0),
        memory,
    )


def check_list(name: str, value: Any) -> list[Any]:
    """Return the list of an argument of the interface that takes several values.

    Raises:
        ConfigError: the value is a single one.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"{name}: expected a list, got {value!r}; give [{value!r}]")
    return list(value)


@contextlib.contextmanager
def tell_os_errors() -> Iterator[None]:
    """Raise the error that the command line prints where the system refuses a file or a folder."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error) from error


def _plain(name: str, value: Any) -> Any:
    if inspect.isroutine(value) or inspect.isclass(value):
        return _specify(name, value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(name, each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(name, each) for each in value]
    # Numbers of numpy and torch, which are no numbers of Python.
    return value.item() if callable(getattr(value, "item", None)) else value


def _specify(name: str, function: Any) -> str:
    """Return `path/to/file.py:function` of a function, which the processes of a run import by themselves.

    Raises:
        ConfigError: no process can import the function from a file.
    """
    own, where = getattr(function, "__name__", repr(function)), f"{name}: {function!r}"
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        raise ConfigError(
            f"{where}: stands in no file, and the processes of a run import it from one; write it to a file "
            "(in a notebook by %%writefile my_network.py), import it, and give the imported function"
        )
    if getattr(module, own, None) is not function:
        raise ConfigError(
            f'{where}: {file} has no "{own}" that is this function; give a function of the top level of a '
            "module, no lambda, method or partial"
        )
    return f"{os.path.abspath(file)}:{own}"


def refuse_within_import() -> None:
    """Check that no user's file is being imported: a run that starts a run would never end.

    Raises:
        ConfigError: the call stands at the top level of a user's file.
    """
    file = running_file()
    if file is not None:
        raise ConfigError(
            f'{file} starts a run whenever it is imported; put the call under if __name__ == "__main__":'
        )
