"""Build backend (PEP 517): setuptools, but a wheel is built from the moved packages.

An editable installation and an sdist have the packages where the repository has them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

# The frontend imports this module from its folder: `backend-path` in pyproject.toml.
from moving import stage  # type: ignore[import-not-found]
from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = Mapping[str, str | list[str] | None] | None


def build_wheel(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,  # noqa: ARG001 - PEP 517's signature
) -> str:
    """Build the wheel, and return its file name; arguments as in PEP 517."""
    target = os.path.abspath(wheel_directory)
    with _staged():
        return str(build_meta.build_wheel(target, config_settings))


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    """Write the wheel's metadata, and return the name of their folder; arguments as in PEP 517."""
    target = os.path.abspath(metadata_directory)
    with _staged():
        return str(build_meta.prepare_metadata_for_build_wheel(target, config_settings))


@contextlib.contextmanager
def _staged() -> Iterator[None]:
    """Change to a folder with the moved packages."""
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        stage(root, Path(folder))
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(root)
