"""Files that a master names: no path of a master is run, only files of the user's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config.files import load
from tests.deploy.doctor.masters import FakeMaster, fake_master
from tests.integration.processes import Cli

TRAP = """
from pathlib import Path
Path({mark!r}).touch()
def build(input_shape, classes):
    raise SystemExit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["slave"], ["evaluate"], ["export", "--output", "model.safetensors"], ["doctor"]],
    ids=lambda command: command[0],
)
def test_a_path_that_a_master_names_is_not_run(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    """A program that had won the master's port once had a slave run any file of the machine."""
    (tmp_path / "code").mkdir()
    mark = tmp_path / "ran"
    for folder in (tmp_path, cli.folder):
        (folder / "trap.py").write_text(TRAP.format(mark=str(mark)))
    for spec in (f"{tmp_path}/trap.py:build", "trap.py:build"):
        config = load(None, [f"network.model={spec}", "network.layers=2", "network.cuts=[1]"])
        with fake_master(FakeMaster(config)) as address:
            bare = cli.run(*command, "--master", address)
            elsewhere = cli.run(*command, "--master", address, "--code", str(tmp_path / "code"))
        for done in (bare, elsewhere):
            assert done.returncode == 2, done.stderr + done.stdout
            assert "trap.py" in done.stderr + done.stdout
    assert not mark.exists()
