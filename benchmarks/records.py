"""Records of benchmarks: result files, tables in Markdown, the machine, and the settings for MNIST."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import strict_json
from common.cores import count_cores
from common.errors import ConfigError


def read(path: Path) -> dict[str, Any]:
    """Read the last results.

    Raises:
        ConfigError: there are no results.
    """
    if not path.exists():
        raise ConfigError(f"--table: there is no {path}; run the benchmark first")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write results as JSON."""
    path.write_text(strict_json.encode(result, indent=1) + "\n", encoding="utf-8")


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a table: a head, then a line for every row of cells."""
    every = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def machine() -> dict[str, Any]:
    """Describe the machine."""
    return {"cores": count_cores(), "python": platform.python_version()}


def without_data_path(settings: Sequence[str]) -> list[str]:
    """Drop the settings that name local folders of data."""
    return [each for each in settings if not each.startswith("data.path")]


def quality(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the figure of a network's quality: the test error in per cent, else the bits a token."""
    if "error_percent" in metrics:
        return {"test_error_percent": metrics["error_percent"]}
    return {"bits_per_token": metrics["bits_per_token"]}


def mnist_settings(folder: Path | None) -> tuple[str, ...]:
    """Return the settings for MNIST in a folder; empty without a folder.

    Raises:
        ConfigError: the folder does not exist.
    """
    if folder is None:
        return ()
    if not folder.is_dir():
        raise ConfigError(f"--mnist {folder}: is not a folder; give the folder of MNIST's files")
    return ("data.dataset=mnist", f"data.path={folder.resolve()}")
