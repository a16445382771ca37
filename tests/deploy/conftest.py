"""What is simulated here computes on one thread, so that every number is the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.integration.processes import Cli


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small layers gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line; a test that leaves a process behind fails."""
    line = Cli(tmp_path)
    yield line
    assert line.end() == []
