"""Package of users' files: a module's name here is the path of its file, in hexadecimal.

No name of a user's file can hide another module, and processes that a user's file starts (`spawn`,
`forkserver`, workers of a loader) find the file by the module's name alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType


def module_name(file: Path) -> str:
    """Name the module of a user's file, given by its absolute path."""
    return f"{__name__}.file_{str(file).encode(errors='surrogateescape').hex()}"


def module_spec(name: str) -> ModuleSpec | None:
    """Return the spec of the module of this name; None for a name that `module_name` did not make."""
    package, _, encoded = name.rpartition(".file_")
    if package != __name__:
        return None
    try:
        file = bytes.fromhex(encoded).decode(errors="surrogateescape")
    except ValueError:
        return None
    return spec_from_file_location(name, file)


class _Finder(MetaPathFinder):
    """Finder of users' files, for processes that unpickle a user's function."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the import system's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return the spec of a user's file, None for other modules."""
        return module_spec(fullname)


sys.meta_path.append(_Finder())
