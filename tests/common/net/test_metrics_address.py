"""The address under which metrics of a slave or a store are announced to the master."""

from __future__ import annotations

import socket

import pytest

from common.net.addresses import reachable_metrics


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
def test_a_process_beside_its_master_leaves_the_host_to_the_master(listen: str, announced: str) -> None:
    assert reachable_metrics(listen, "127.0.0.1:50051") == announced


def test_a_process_whose_master_s_name_does_not_resolve_yet_announces_its_own_name() -> None:
    announced = reachable_metrics("0.0.0.0:9101", "no.such.host.invalid:50051")
    assert announced == f"{socket.gethostname()}:9101"
