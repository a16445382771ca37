"""deploy.engines.local: what a child of this machine is told."""

from __future__ import annotations

import os
from pathlib import Path

from common.lifecycle import PARENT, PLACE
from deploy.engines.engine import SLAVE, Order
from deploy.engines.local import LocalEngine
from deploy.runs.directory import RunDirectory
from tests.integration.processes import until


def test_a_slave_is_told_its_number_and_its_parent(tmp_path: Path) -> None:
    engine = LocalEngine(RunDirectory(tmp_path), 1)
    arguments = ("--master=127.0.0.1:1", "--wait=60")
    slave = engine.place(Order("slave-3", SLAVE, arguments, None, tmp_path / "log", 2))
    try:
        assert slave.place is not None
        environment = Path(f"/proc/{slave.place[1]}/environ")
        until(lambda: b"deploy.cli" in Path(f"/proc/{slave.place[1]}/cmdline").read_bytes(), 10)  # type: ignore[index]
        told = dict(each.split("=", 1) for each in environment.read_text().split("\0") if "=" in each)
        assert told[PLACE] == "2"
        assert told[PARENT] == str(os.getpid())
    finally:
        slave.kill()
