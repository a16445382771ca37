"""The address under which a slave's metrics are announced to the master."""

from __future__ import annotations

import socket

import pytest

from slave.network.options import Options
from slave.service import Slave


@pytest.mark.parametrize(
    ("listen", "announced"),
    [
        # The way to a master on this machine is loopback, which other machines must not be told.
        ("0.0.0.0:9101", "0.0.0.0:9101"),
        ("[::]:9101", "[::]:9101"),
        ("127.0.0.1:9101", "127.0.0.1:9101"),
        ("192.0.2.7:9101", "192.0.2.7:9101"),
    ],
)
def test_a_slave_beside_its_master_leaves_the_host_to_the_master(listen: str, announced: str) -> None:
    slave = Slave(Options("127.0.0.1:50051"))
    assert slave._reachable(listen) == announced


def test_a_slave_whose_master_s_name_does_not_resolve_yet_announces_its_own_name() -> None:
    slave = Slave(Options("no.such.host.invalid:50051"))
    assert slave._reachable("0.0.0.0:9101") == f"{socket.gethostname()}:9101"
