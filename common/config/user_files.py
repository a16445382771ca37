"""Digests of a user's file and of the files beside it that it imports, found without running any of them."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from common.config.user_code import find_user_file


def digest_files(spec: str, code: Path | None) -> dict[str, str]:
    """Digest the file of `path/to/file.py:function` and every file beside it that an import reaches.

    A package beside the file counts as a whole. Names are relative to the file's folder.

    Args:
        spec: path of the file and name of the function.
        code: folder in which the file is searched first, by its bare name.

    Raises:
        ConfigError: no such file.
    """
    file = find_user_file(spec, code)
    found: dict[str, str] = {}
    waiting = [file]
    while waiting:
        each = waiting.pop()
        name = each.relative_to(file.parent).as_posix()
        if name not in found:
            source = each.read_bytes()
            found[name] = hashlib.blake2b(source, digest_size=8).hexdigest()
            for module in _imported(source):
                waiting += _beside(file.parent, module)
    return found


def _imported(source: bytes) -> Iterator[str]:
    """Yield the top-level names of every module that a source imports, anywhere in it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # the file is refused when it runs
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _beside(folder: Path, module: str) -> list[Path]:
    """List the files of a module in the folder; none for a module that is found elsewhere first."""
    package, file = folder / module, folder / f"{module}.py"
    files = sorted(package.rglob("*.py")) if package.is_dir() else [file] if file.is_file() else []
    return files if files and _comes_from(folder, module) else []


def _comes_from(folder: Path, module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return True
    places = (
        []
        if spec is None
        else [*([spec.origin] if spec.origin else []), *(spec.submodule_search_locations or [])]
    )
    return spec is None or any(Path(place).is_relative_to(folder) for place in places)
