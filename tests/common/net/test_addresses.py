"""common.net.addresses: the address by which peers reach a listener."""

from __future__ import annotations

import socket

import pytest

from common.errors import ConfigError
from common.net.addresses import reachable_address, split_address


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


@pytest.mark.parametrize("host", ["", "a..b", ".a", "a" * 70, "a\0b", "a\nb"])
def test_what_the_system_cannot_be_asked_for_is_no_address(host: str) -> None:
    """A slave that gave such an address would harm its neighbours."""
    with pytest.raises(ConfigError, match="is no address; expected HOST:PORT"):
        split_address(f"{host}:50051")


def test_names_and_addresses_of_every_kind_are_hosts() -> None:
    for host in ("a.b.", "b\u00fccher.example", "[::1]", "10.0.0.1", "slave_1", "[fe80::1%eth0]"):
        assert split_address(f"{host}:1") == (host, 1)
