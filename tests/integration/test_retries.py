"""Retries of real processes: growing pauses, patience, and an ear for interrupts."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.integration.processes import Cli, until
from tests.master.served import Served, served

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

# Leases that a slave takes at most within three seconds, by pauses of 0.5 s, 1 s, 2 s and jitter.
WAIT, MOST_LEASES = 3, 8


def close_data_port(master: Served) -> int:
    """Have a master name a data port at which nobody listens, as behind a firewall."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    master.ports._roster.data_port = port
    return port


def leases(master: Served) -> int:
    return sum(seat.grants for seat in master.master.status().seats)


@pytest.mark.parametrize("how", ["patience", "interrupt"])
def test_a_slave_whose_data_port_is_closed_joins_rarely_and_ends_in_time(
    cli: Cli, tmp_path: Path, how: str
) -> None:
    with served(tmp_path / "state", "cluster.heartbeat_seconds=0.4") as master:
        port = close_data_port(master)
        wait = str(WAIT) if how == "patience" else "600"
        slave = cli.start("slave", "--master", master.address, "--wait", wait)
        if how == "interrupt":
            until(lambda: leases(master) >= 2)
            slave.send_signal(signal.SIGTERM)
        _, text = slave.communicate(timeout=120)
        assert slave.returncode == (3 if how == "patience" else 130), text
        assert 2 <= leases(master) <= MOST_LEASES
        if how == "patience":
            assert f"127.0.0.1:{port}: the port for shards does not answer" in text.splitlines()[-1]


def test_a_slave_that_waits_for_a_silent_master_is_interrupted_in_the_middle_of_a_call(cli: Cli) -> None:
    """`tests/common/net/test_control.py` shows that no call holds the interrupt up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slave = cli.start("slave", "--master", f"127.0.0.1:{silent.getsockname()[1]}", "--wait", "600")
        cli.wait_for(slave, "no master at", "stderr")
        slave.send_signal(signal.SIGTERM)
        assert slave.wait(30) == 130


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["snapshot"],
        ["rollback"],
        ["evaluate"],
        ["export", "--output", "model.pt"],
    ],
    ids=lambda command: str(command[0]),
)
def test_a_command_at_a_master_that_is_not_there_says_what_to_do(cli: Cli, command: list[str]) -> None:
    done = cli.run(*command, "--master", "127.0.0.1:42921")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("layerwise: --master 127.0.0.1:42921: no master answers (Connection refused); ")
    assert "start" in line
