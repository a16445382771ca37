"""The tutorial and the how-to pages, walked through: every command runs as it is written, in small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import WALKED, read_blocks
from tests.docs.walk import Walk
from tests.integration.processes import Cli


@pytest.fixture
def walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Walk]:
    cli = Cli(tmp_path)
    walk = Walk(cli, monkeypatch, capfd)
    yield walk
    walk.end()
    assert cli.end() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", WALKED, ids=lambda page: page.stem)
def test_every_command_and_snippet_of_a_page_runs(walk: Walk, page: Path) -> None:
    walk.run(read_blocks(page))
