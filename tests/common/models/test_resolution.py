"""Cuts that a child process finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config.files import load
from common.errors import ConfigError
from common.models.resolution import resolve

UNITS = "    return [nn.Flatten(), nn.Linear(64, classes)]\n"


def write(folder: Path, head: str, body: str = "") -> str:
    file = folder / "own.py"
    file.write_text(f"from torch import nn\n{head}\ndef build(classes):\n{body}{UNITS}")
    return f"network.model={file}:build"


def test_a_network_that_prints_is_resolved(tmp_path: Path) -> None:
    own = write(tmp_path, "print('[section')\nprint('=')", "    print('no = [toml')\n")
    assert resolve(load(None, [own])).network.cuts == [1]


def test_a_networks_error_is_told_even_if_it_prints_later(tmp_path: Path) -> None:
    head = "import atexit, sys\natexit.register(print, 'good bye', file=sys.stderr)"
    own = write(tmp_path, head, "    raise ValueError('no weights today')\n")
    with pytest.raises(ConfigError, match="no weights today"):
        resolve(load(None, [own]))


def test_a_child_that_dies_without_a_result_is_told(tmp_path: Path) -> None:
    own = write(tmp_path, "import os\nos._exit(7)")
    with pytest.raises(ConfigError, match="ended with 7 and without a result"):
        resolve(load(None, [own]))


def test_a_network_that_exits_is_refused(tmp_path: Path) -> None:
    """A call of exit(0) in a user's function used to end `train` with 0."""
    with pytest.raises(ConfigError, match="SystemExit: 0"):
        resolve(load(None, [write(tmp_path, "", "    raise SystemExit(0)\n")]))
