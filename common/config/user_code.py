"""Functions from a user's own files: networks and data sets given as `path/to/file.py:function`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from common.config.settings import nearest
from common.config.user_modules import module_name, module_spec
from common.config.values import is_user_function
from common.errors import ConfigError

# Folder of this project's packages. With some ways to install, only a finder behind `sys.path` knows it, and
# a user's `common.py` would be found first.
_HOME = str(Path(__file__).parents[__name__.count(".")])
_PACKAGES = ("common", "master", "slave", "deploy", "protos", "layerwise")
# Users' files that are running at present.
_running: list[Path] = []


def load_user_function(spec: str, code: Path | None) -> Callable[..., Any]:
    """Load the function that `path/to/file.py:function` names.

    The file runs under a private module name, so that no file name can hide a package of this project. The
    file may import modules beside it, whose folder is searched last: no module there hides an installed one.
    Every call runs the file anew.

    Args:
        spec: path of the file and name of the function.
        code: folder (a slave's `--code`) in which the file is searched first, by its bare name.

    Raises:
        ConfigError: the file or the function does not exist, or the file raises.
    """
    if not is_user_function(spec):
        raise ConfigError(f"{spec}: names no function in a file; write it as path/to/file.py:function")
    file, name = find_user_file(spec, code), spec.rpartition(":")[2]
    module = _run(file)
    function = getattr(module, name, None)
    if not callable(function):
        functions = _list_functions(module)
        raise ConfigError(f'{file}: has no function "{name}"{nearest(name, functions) if functions else ""}')
    return function  # type: ignore[no-any-return]


def running_file() -> Path | None:
    """Return the user's file that is being imported at present; None: none is."""
    return _running[-1] if _running else None


@contextlib.contextmanager
def keep_folder() -> Iterator[None]:
    """Return to the working directory at the end: relative paths of this project outlive a user's chdir."""
    folder = os.open(".", os.O_RDONLY)
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)


def format_error(error: BaseException, file: str = "") -> str:
    """Format an exception of user code in one line: type, message, and last line of `file` in the trace."""
    message = " ".join(str(error).split())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"


def find_user_line(error: BaseException) -> str:
    """Return FILE:LINE of the innermost call in a user's file, or beside one; empty without such a call."""
    specs = [module_spec(name) for name in list(sys.modules)]
    folders = {str(Path(spec.origin).parent) for spec in specs if spec is not None and spec.origin}
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith(tuple(f"{folder}{os.sep}" for folder in folders)) and not _is_installed(file):
            found = f"{file}:{line}"
    return found


def _is_installed(file: str) -> bool:
    """Whether a file is one of this project's, or of an environment in the user's folder."""
    inside = Path(file).parts
    ours = file.startswith(tuple(f"{_HOME}{os.sep}{name}{os.sep}" for name in _PACKAGES))
    return ours or "site-packages" in inside or "dist-packages" in inside


def find_user_file(spec: str, code: Path | None) -> Path:
    """Return the absolute path of the file that `path/to/file.py:function` names.

    Args:
        spec: path of the file and name of the function.
        code: folder in which the file is searched first, by its bare name.

    Raises:
        ConfigError: no such file.
    """
    path = Path(spec.rpartition(":")[0])
    if code is not None and not code.is_dir():
        raise ConfigError(f"--code: {code} is no folder; give the one that holds {path.name}")
    for file in [path] if code is None else [code / path.name, path]:
        if file.is_file():
            return file.absolute()
    there = "" if code is None else f", nor {path.name} in {code}"
    raise ConfigError(f"{path}: no such file{there}; put it there, or give a slave its folder by --code DIR")


def check_sent_files(functions: Mapping[str, str], code: Path | None, own: Mapping[str, str]) -> None:
    """Check the files that a master's configuration names: they come from `code` alone, by their bare names.

    Args:
        functions: of the configuration, as `path/to/file.py:function`, by key.
        code: folder of this user's files; None: no folder was given.
        own: functions that this user has given for the run: they may run from their own paths.

    Raises:
        ConfigError: a file would run from a path that the master names.
    """
    if functions == own:
        return
    for key, spec in functions.items():
        name = Path(spec.rpartition(":")[0]).name
        if code is None:
            raise ConfigError(
                f"{key}: the master names a file, {name}, and no path of a master is run; give the folder of "
                f"your {name} by --code DIR"
            )
        if not code.is_dir():
            raise ConfigError(f"--code: {code} is no folder; give the one that holds {name}")
        if not (code / name).is_file():
            raise ConfigError(f"{key}: {code / name}: no such file; give the folder of yours by --code DIR")


def _run(file: Path) -> ModuleType:
    name = module_name(file)
    spec = module_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    for folder in (_HOME, str(file.parent)):
        if folder not in sys.path:
            sys.path.append(folder)
    # Dataclasses look up the own module by name while the file runs.
    sys.modules[name] = module
    _running.append(file)
    try:
        with keep_folder():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(
            f"{file}: cannot be run: {format_error(error, str(file))}; {_advise(error)}"
        ) from error
    finally:
        _running.pop()
    return module


def _advise(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "install the module, or put it beside the file: on every machine of the run"
    if isinstance(error, ImportError):
        return "an installed module of the name of a file beside it comes first; give the file another name"
    return "correct the file"


def _list_functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
