"""common.net.addresses: the address by which peers reach a listener."""

from __future__ import annotations

import socket

import pytest

from common.errors import ConfigError
from common.net import addresses
from common.net.addresses import (
    advice,
    cannot_listen,
    check_link,
    check_listen,
    choose_addresses,
    loopback_host,
    reachable_address,
    split_address,
)
from common.net.channels import Channel


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


@pytest.mark.parametrize("address", ["fd00::1", "fd00::1:50051", "::1:50051", "[::1:50051"])
def test_an_address_of_ipv6_without_brackets_is_no_guess(address: str) -> None:
    """The last group of fd00::1 used to be taken for the port."""
    with pytest.raises(
        ConfigError, match=r"an address of IPv6 stands in brackets, for example \[fd00::1\]:50051"
    ):
        split_address(address)


@pytest.mark.parametrize("address", ["[fe80::1%eth0]:1", "[fe80::1]:1", "[febf::2%2]:1"])
def test_a_link_local_address_is_refused_wherever_one_is_given(address: str) -> None:
    for refused in (
        lambda: check_listen(address, insecure=True, option="--web"),
        lambda: choose_addresses("[::]:0", address, "127.0.0.1:1", insecure=True),
        lambda: Channel(address),
    ):
        with pytest.raises(ConfigError, match="is link-local: it holds on one link"):
            refused()


def test_the_way_to_a_master_by_a_link_local_address_is_no_way_for_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "interface_to", lambda _: "[fe80::2%eth0]")
    with pytest.raises(ConfigError, match="is link-local"):
        choose_addresses(None, None, "box.local:50051", insecure=True)


@pytest.mark.parametrize(
    "address", ["[fd00::1]:1", "[::1]:1", "169.254.1.2:1", "fe80:1", "10.0.0.1:1", "[::]:1"]
)
def test_addresses_of_a_whole_network_are_none_of_a_link(address: str) -> None:
    check_link(address)


def test_without_ipv4_processes_of_a_machine_meet_at_the_loopback_address_of_ipv6(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert loopback_host() == "127.0.0.1"

    def refuse(family: int, *_: object) -> socket.socket:
        raise OSError(f"family {family} is off")

    monkeypatch.setattr("common.net.addresses.socket.socket", refuse)
    assert loopback_host() == "[::1]"


def test_a_free_port_is_never_called_taken() -> None:
    free = str(cannot_listen("--web", "10.1.2.3", 0, "Cannot assign (while attempting to bind on address)"))
    assert free == (
        "--web 10.1.2.3:0: cannot be listened on (Cannot assign): 10.1.2.3 is no address of this machine; "
        "give one that `ip address` lists"
    )
    assert "port 80 is taken" in str(cannot_listen("--web", "10.1.2.3", 80))


def test_the_advice_about_a_silent_loopback_port_is_that_others_need_another_address() -> None:
    assert "--advertise" in advice("127.0.0.1")
    assert "--advertise" in advice("[::1]")
    assert advice("10.1.2.3") == "is the port open between the two machines?"
