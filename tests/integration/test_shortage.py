"""Processes without free files, or without their folders: they go on once there are some."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.errors import NotFoundError
from common.net import control
from common.net.addresses import split_address
from common.net.data.client import DataClient, locate, pull
from common.net.tokens import find_joiner
from common.shards.pushes import PullRequest
from common.wire.messages import JoinRequest
from common.wire.methods import JOIN
from tests.integration.processes import QUICK, Cli, HandMade, until
from tests.master.served import key_of

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

# Files beyond those that a master has open when it listens, and connections that take them.
FREE, HELD = 8, 48
MEASURING, ACCEPTING = "measuring this machine", "the data port takes no connection"


def wait_for_all(process: subprocess.Popen[str], *texts: str) -> None:
    """Read a process' log until every text has come."""
    missing = set(texts)
    assert process.stderr is not None
    for line in process.stderr:
        missing -= {text for text in missing if text in line}
        if not missing:
            return
    raise AssertionError(f"never said {missing}")


def health(folder: Path) -> Any:
    web = (folder / "state" / "web").read_text(encoding="utf-8")
    with urllib.request.urlopen(f"http://{web}/healthz", timeout=10) as answer:
        return json.load(answer)


def join(address: str) -> int:
    """Take a lease as a slave that never beats."""
    channel = control.channel(address)
    try:
        return control.call(
            channel,
            JOIN,
            JoinRequest("silent", key=key_of("silent")),
            shown=find_joiner(address),
        ).layer
    finally:
        channel.close()


def check_alive(by_hand: HandMade) -> None:
    """The data port answers, and a tick fails a silent slave."""
    client = DataClient(lambda: locate(by_hand.address))
    with pytest.raises(NotFoundError):
        pull(client, PullRequest("1/weights"), 10.0)
    client.drop()
    assert join(by_hand.address) == 1
    until(lambda: by_hand.status()["seats"][0]["state"] == "vacant", 30)
    assert health(by_hand.cli.folder)["status"] == "ok"


def test_a_master_whose_files_are_taken_answers_and_ticks_once_some_are_free(
    cli: Cli, by_hand: HandMade
) -> None:
    master = by_hand.master(*QUICK)
    files = psutil.Process(master.pid).num_fds() + FREE
    resource.prlimit(master.pid, resource.RLIMIT_NOFILE, (files, files))
    port = locate(by_hand.address)[1]
    held = [socket.create_connection((split_address(by_hand.address)[0], port)) for _ in range(HELD)]
    wait_for_all(master, MEASURING, ACCEPTING)
    for connection in held:
        connection.close()
    check_alive(by_hand)
    assert master.poll() is None


def test_a_master_whose_state_directory_was_away_goes_on(cli: Cli, by_hand: HandMade) -> None:
    master = by_hand.master(*QUICK)
    state = cli.folder / "state"
    state.rename(cli.folder / "away")
    wait_for_all(master, MEASURING)
    (cli.folder / "away").rename(state)
    check_alive(by_hand)
    assert master.poll() is None


def test_slaves_whose_working_directory_is_removed_train_on(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master(*QUICK, "--set", "run.batches=20000")
    folder = cli.folder / "working"
    folder.mkdir()
    slaves = [cli.start("slave", "--master", by_hand.address, cwd=folder) for _ in range(3)]
    until(lambda: by_hand.status()["batches"] > 0)
    shutil.rmtree(folder)
    before = by_hand.status()
    beats = [seat["beat"] + 3 for seat in before["seats"]]

    def went_on() -> bool:
        now = by_hand.status()
        moved = now["batches"] > before["batches"]
        return moved and all(seat["beat"] > beat for seat, beat in zip(now["seats"], beats, strict=True))

    until(went_on)
    assert [slave.poll() for slave in slaves] == [None] * 3
    for slave in slaves:
        slave.terminate()
    assert [slave.wait(30) for slave in slaves] == [130] * 3
