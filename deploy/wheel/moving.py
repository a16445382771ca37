"""Move of the repository's packages into `layerwise`, with their imports.

A wheel that brought `common` or `deploy` to the top of an environment would overwrite another package's, and
be overwritten. Imports nothing but the standard library: the build has no other package at hand.
"""

from __future__ import annotations

import ast
import configparser
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

HOME = "layerwise"
MOVED = ("common", "deploy", "master", "protos", "slave")
# Files that the build needs beside the packages.
BESIDE = ("pyproject.toml", "README.md", "LICENSE")
# These may name modules in text: the command line puts the home in front, generated code prints the name.
MAY_NAME = ("deploy/cli.py", "protos/layerwise_pb2.py")


def stage(root: Path, folder: Path) -> None:
    """Lay the sources out as the wheel has them.

    Args:
        root: of the repository, or of an unpacked sdist.
        folder: empty; gets `layerwise/` with all packages, and the files of the build.

    Raises:
        ValueError: a source names a module in a way that a move would break.
    """
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / HOME, folder / HOME, ignore=skip)
    for package in MOVED:
        shutil.copytree(root / package, folder / HOME / package, ignore=skip)
        for file in sorted((folder / HOME / package).rglob("*.py")):
            _move_file(file, file.relative_to(folder / HOME).as_posix(), root)
    for file in sorted((folder / HOME).glob("*.py")):
        _move_file(file, f"{HOME}/{file.name}", root)
    for name in BESIDE:
        shutil.copy(root / name, folder / name)
    settings = configparser.ConfigParser()
    settings.optionxform = str  # type: ignore[assignment,method-assign]
    settings.read(root / "setup.cfg", encoding="utf-8")
    move_settings(settings)
    with (folder / "setup.cfg").open("w", encoding="utf-8") as output:
        settings.write(output)


def _move_file(file: Path, name: str, root: Path) -> None:
    source = file.read_text(encoding="utf-8")
    if name not in MAY_NAME:
        named = list(find_names(source, root))
        if named:
            line, text = named[0]
            raise ValueError(f"{name}:{line}: names the module {text}; derive the name from __name__")
    file.write_text(move_imports(source, name), encoding="utf-8")


def move_imports(source: str, name: str = "") -> str:
    """Return a module's source with every import of a moved package from its new home.

    Args:
        source: text of the module.
        name: of the module, for messages.

    Raises:
        ValueError: `import common.errors` without `as`, whose uses would have to change, too.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level and _is_moved(node.module or ""):
            start = f"from {node.module}"
        elif isinstance(node, ast.Import) and any(_is_moved(each.name) for each in node.names):
            (first, *others) = node.names
            if others or (first.asname is None):
                raise ValueError(
                    f"{name}:{node.lineno}: {ast.unparse(node)}; write from PACKAGE import MODULE"
                )
            start = f"import {first.name}"
        else:
            continue
        # Columns of ast count bytes.
        line = lines[node.lineno - 1].encode()
        before, after = line[: node.col_offset].decode(), line[node.col_offset :].decode()
        if not after.startswith(start):
            raise ValueError(f"{name}:{node.lineno}: write the import with one space and on one line")
        keyword, _, module = start.partition(" ")
        lines[node.lineno - 1] = f"{before}{keyword} {HOME}.{module}{after.removeprefix(start)}"
    return "".join(lines)


def find_names(source: str, root: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is the name of a moved module.

    Args:
        source: text of a module.
        root: folder of the packages.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            path = root.joinpath(*node.value.split("."))
            if _is_moved(node.value) and (path.with_suffix(".py").exists() or path.is_dir()):
                yield node.lineno, node.value


def move_settings(settings: configparser.ConfigParser) -> None:
    """Change the settings of the build, setup.cfg, to those of the moved packages."""
    settings["options.packages.find"]["include"] = f"\n{HOME}*"
    data: Mapping[str, str] = dict(settings["options.package_data"])
    settings.remove_section("options.package_data")
    settings["options.package_data"] = {
        f"{HOME}.{package}" if _is_moved(package) else package: files for package, files in data.items()
    }
    scripts = settings["options.entry_points"]["console_scripts"]
    settings["options.entry_points"]["console_scripts"] = scripts.replace("= deploy.", f"= {HOME}.deploy.")


def _is_moved(module: str) -> bool:
    return module.partition(".")[0] in MOVED
