"""A test that leaves a process behind fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.processes import Cli, HandMade


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line; a test that leaves a process behind fails."""
    line = Cli(tmp_path)
    yield line
    # A process that is about to end may take a moment for it.
    deadline = time.monotonic() + 5
    while line.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert line.end() == []


@pytest.fixture
def by_hand(cli: Cli) -> Iterator[HandMade]:
    """A cluster that a test puts together itself."""
    cluster = HandMade(cli)
    yield cluster
    cluster.end()
