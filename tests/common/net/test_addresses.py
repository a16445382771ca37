"""common.net.addresses: the address by which peers reach a listener."""

from __future__ import annotations

import socket

import pytest

from common.errors import ConfigError
from common.net.addresses import reachable_address


def test_a_listener_on_every_interface_is_reached_at_the_interface_that_faces_the_peer() -> None:
    assert reachable_address("0.0.0.0:9", "127.0.0.1:50051") == "127.0.0.1:9"
    assert reachable_address("[::]:9", "127.0.0.1:50051") == "127.0.0.1:9"
    assert reachable_address("192.0.2.4:9", "127.0.0.1:50051") == "192.0.2.4:9"


def test_without_a_peer_the_name_of_this_machine_stands_for_every_interface() -> None:
    assert reachable_address("0.0.0.0:9", None) == f"{socket.gethostname()}:9"
    assert reachable_address("192.0.2.4:9", None) == "192.0.2.4:9"


def test_a_peer_without_a_route_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid"):
        reachable_address("0.0.0.0:9", "no.such.host.invalid:1")
