"""What benchmarks have in common: their results' files, their tables, and where MNIST lies."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import ConfigError


def read(path: Path) -> dict[str, Any]:
    """The last results.

    Raises:
        ConfigError: there are none.
    """
    if not path.exists():
        raise ConfigError(f"--table: there is no {path}; run the benchmark first")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Keep results."""
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table: its head, and its cells line by line."""
    every = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {"cores": os.cpu_count(), "python": platform.python_version()}


def settings_of(settings: Sequence[str]) -> list[str]:
    """Without where this machine has the data."""
    return [each for each in settings if not each.startswith("data.path")]


def mnist(folder: Path | None) -> tuple[str, ...]:
    """The settings of MNIST in a folder; none without one.

    Raises:
        ConfigError: it is no folder.
    """
    if folder is None:
        return ()
    if not folder.is_dir():
        raise ConfigError(f"--mnist {folder}: is no folder; give that of MNIST's files")
    return ("data.dataset=mnist", f"data.path={folder.resolve()}")
