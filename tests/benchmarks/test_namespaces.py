"""Machines made of network namespaces: as slow as asked, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from benchmarks import namespaces
from benchmarks.delaying import destination
from benchmarks.namespaces import Far, Network
from common.errors import RefusedError
from tests.integration.processes import ROOT

NBYTES, MBIT = 2_000_000, 100
# What two queues may let through at once, one after the other.
BURSTS = 2 * 128 << 10

SERVER = f"""
import socket
with socket.create_server(("0.0.0.0", 5001)) as server:
    print("ready", flush=True)
    peer, _ = server.accept()
    left = {NBYTES}
    while left:
        left -= len(peer.recv(1 << 16))
    peer.sendall(bytes({NBYTES}))
"""
CLIENT = f"""
import socket, sys, time
with socket.create_connection((sys.argv[1], 5001)) as peer:
    began = time.monotonic()
    peer.sendall(bytes({NBYTES}))
    left = {NBYTES}
    while left:
        left -= len(peer.recv(1 << 16))
print(time.monotonic() - began)
"""


@pytest.fixture(autouse=True)
def _possible() -> None:
    try:
        namespaces.check()
    except RefusedError as error:
        pytest.skip(str(error))


def _of(pid: int) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.startswith(f"{namespaces.PREFIX}{pid}-")]


def _exchanged(network: Network) -> float:
    """Seconds in which two machines have sent each other `NBYTES`, one after the other."""
    server = subprocess.Popen(
        [*network.inside(1), sys.executable, "-S", "-c", SERVER], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        client = subprocess.run(
            [*network.inside(0), sys.executable, "-S", "-c", CLIENT, network.address(1)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.communicate()
    for machine in (0, 1):
        assert all(NBYTES < count < 1.2 * NBYTES for count in network.traffic(machine))
    return float(client.stdout)


def test_what_goes_over_a_link_is_counted_and_takes_its_time_both_ways() -> None:
    with Network(2, MBIT) as network:
        assert _exchanged(network) >= 2 * (NBYTES - BURSTS) * 8 / (MBIT * 1e6)


def test_far_machines_hear_each_other_late_and_are_gone_afterwards() -> None:
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("there is no /dev/net/tun")
    with Far(2, 0.1) as network:
        # There and back.
        assert _exchanged(network) >= 0.2
        assert len(_of(os.getpid())) == 2
    assert not _of(os.getpid())


@pytest.mark.parametrize(
    ("packet", "machine"),
    [
        (bytes([0x45, *[0] * 15, 10, 77, 0, 2]), 1),
        (bytes([0x45, *[0] * 15, 10, 77, 0, 3]), None),
        (bytes([0x45, *[0] * 15, 10, 77, 0, 0]), None),
        (bytes([0x60, *[0] * 39]), None),
        (b"", None),
    ],
)
def test_a_packet_is_for_the_machine_that_its_address_names(packet: bytes, machine: int | None) -> None:
    assert destination(packet, 2) == machine


def test_nothing_is_left_after_an_interrupt() -> None:
    def interrupted() -> None:
        with Network(2, MBIT):
            assert len(_of(os.getpid())) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not _of(os.getpid())


def test_what_a_killed_process_left_is_removed_by_the_next_and_a_living_one_keeps_its_own() -> None:
    code = "from benchmarks.namespaces import Network\nwith Network(1, 100): print(flush=True); input()"
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    )
    try:
        for process in (first, second):
            assert process.stdout
            assert process.stdout.readline() == "\n"
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert len(_of(first.pid)) == 2
        with Network(1, MBIT):
            assert not _of(first.pid)
            assert len(_of(second.pid)) == 2
    finally:
        first.kill()
        first.communicate()
        second.communicate("\n")
    assert not _of(second.pid)
