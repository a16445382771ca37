"""Installed versions, to be equal in all processes of a run."""

from __future__ import annotations

import platform
import re
from importlib import metadata

PROJECT = "layerwise"
_LOWEST = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)")


def installed_versions() -> dict[str, str]:
    """Return the versions of the project, torch and Python, by name."""
    found = {name: version for name in (PROJECT, "torch") if (version := installed_version(name))}
    return {**found, "python": platform.python_version()}


def installed_version(name: str) -> str | None:
    """Return the version of an installed package; None if the package is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def lowest_versions() -> dict[str, str]:
    """Return the lowest supported version of every required package, by name."""
    try:
        needed = metadata.requires(PROJECT) or ()
    except metadata.PackageNotFoundError:  # run from its sources
        return {}
    found = (_LOWEST.fullmatch(text) for text in needed)
    return {match[1]: match[2] for match in found if match}


def release_numbers(version: str) -> list[int]:
    """Return the numbers of a version's release: [2, 13, 0] of 2.13.0+cpu."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return [int(number) for number in leading[0].split(".")] if leading else []
