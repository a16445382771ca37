"""A run beside strangers that hold all that they may hold of the master's data port, and come again."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest

from common.lifecycle import raise_file_limit
from common.net.addresses import split_address
from common.net.data.client import locate
from common.wire.methods import EXCHANGE, PUSH
from tests.common.net.test_silence import crowd
from tests.integration.processes import QUICK, HandMade

# More from each address than it may have, and more in all than all may have; one is the slaves' own.
ADDRESSES = [f"127.0.0.{host}" for host in (1, 2, 3, 4, 5, 6)]
EACH = 300
DEADLINE = 60.0


class Crowd:
    """Strangers with silent calls; whoever is sent away comes again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.came = 0
        self._threads = [threading.Thread(target=self._press, args=(each,)) for each in ADDRESSES]
        for thread in self._threads:
            thread.start()

    def _press(self, address: str) -> None:
        held: list[socket.socket] = []
        while not self._over.wait(0.1 if len(held) == EACH else 0.0):
            with suppress(OSError):
                held += crowd(self._port, [address] * 5, PUSH.path if self.came % 2 else EXCHANGE.path)
                self.came += 5
            for each in held[:-EACH]:
                each.close()
            del held[:-EACH]
        for each in held:
            each.close()

    def wait(self) -> None:
        """Wait until all are there."""
        while self.came < EACH * len(ADDRESSES):
            assert not self._over.wait(0.05)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE)


@pytest.mark.slow
def test_a_run_trains_to_its_end_while_strangers_crowd_the_data_port(by_hand: HandMade) -> None:
    raise_file_limit()
    master = by_hand.master(*QUICK, "--set", "run.batches=300")
    crowding = Crowd(locate(by_hand.address)[1])
    try:
        crowding.wait()
        host = split_address(by_hand.address)[0]
        assert host == ADDRESSES[0]
        slaves = [by_hand.slave() for _ in range(3)]
        assert [slave.wait(DEADLINE) for slave in slaves] == [0, 0, 0]
    finally:
        crowding.end()
    assert master.poll() is None
    assert by_hand.status()["batches"] == 300
