"""deploy.engines.local: what a child of this machine is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from common.lifecycle import PARENT, PLACE
from deploy.engines.engine import MASTER, SLAVE, Order
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


@pytest.mark.parametrize("shielded", [True, False])
def test_a_shielded_master_ends_by_its_engine_alone(tmp_path: Path, shielded: bool) -> None:
    engine, log, state = (
        LocalEngine(RunDirectory(tmp_path), 1, shielded=shielded),
        tmp_path / "log",
        tmp_path / "state",
    )
    (tmp_path / "run.toml").touch()
    arguments = (str(tmp_path / "run.toml"), "--listen=127.0.0.1:0", f"--state-dir={state}")
    master = engine.place(Order(MASTER, MASTER, arguments, None, log))
    try:
        until(lambda: (state / "web").exists() and "live page" in log.read_text(), 30)
        assert master.place is not None
        # As `ray job stop` does, with all children of `train`.
        os.kill(master.place[1], signal.SIGTERM)
        if shielded:
            until(lambda: "SIGTERM: leaving the end" in log.read_text(), 30)
            assert master.poll() is None
            master.send_signal(signal.SIGTERM)
        assert master.wait(30)
        assert master.poll() == 130
    finally:
        master.kill()
