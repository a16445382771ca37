"""common.net.listening: control port, data port and pages take the same families, at one port each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.errors import RefusedError
from common.net.addresses import split_address
from common.net.control import ControlServer
from common.net.data.server import DataServer
from common.net.listening import join_address, numeric_host, open_listener
from common.observe.web import Page, Site, serve_on_thread

FAMILIES = {"IPv4": "127.0.0.1", "IPv6": "::1"}
HAS_BOTH = socket.has_dualstack_ipv6()


def reached(port: int) -> set[str]:
    """Return the families in which a connection to a port of this machine is accepted."""
    found = set()
    for family, host in FAMILIES.items():
        try:
            socket.create_connection((host, port), 5).close()
        except OSError:
            continue
        found.add(family)
    return found


@contextmanager
def control_port(host: str) -> Iterator[int]:
    async def start() -> tuple[ControlServer, str]:
        server = ControlServer()
        return server, await server.start(f"{host}:0")

    with asyncio.Runner() as runner:
        server, address = runner.run(start())
        try:
            yield split_address(address)[1]
        finally:
            runner.run(server.stop(0))


@contextmanager
def data_port(host: str) -> Iterator[int]:
    server = DataServer()
    port = server.start(host, 0)
    try:
        yield port
    finally:
        server.stop()


@contextmanager
def pages_port(host: str) -> Iterator[int]:
    with serve_on_thread(Site({"/": lambda: Page(b"")}), f"{host}:0", "--web") as address:
        yield split_address(address)[1]


PORTS = [control_port, data_port, pages_port]


@pytest.mark.skipif(not HAS_BOTH, reason="IPv6 is off")
@pytest.mark.parametrize("host", ["[::]", "0.0.0.0"])
def test_every_port_on_every_interface_takes_both_families(host: str) -> None:
    for port_of in PORTS:
        with port_of(host) as port:
            assert reached(port) == {"IPv4", "IPv6"}, port_of.__name__


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_every_port_of_an_address_or_a_name_takes_the_same_one_family(host: str) -> None:
    for port_of in PORTS:
        with port_of(host) as port:
            assert reached(port) == {"IPv4"}, port_of.__name__


@pytest.mark.skipif(not HAS_BOTH, reason="IPv6 is off")
def test_every_port_of_an_address_of_ipv6_takes_ipv6_alone() -> None:
    for port_of in PORTS:
        with port_of("[::1]") as port:
            assert reached(port) == {"IPv6"}, port_of.__name__


def test_without_ipv6_every_interface_means_those_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with open_listener("[::]", 0) as listening:
        assert reached(listening.getsockname()[1]) == {"IPv4"}


@pytest.mark.parametrize("port_of", PORTS, ids=lambda each: each.__name__)
def test_a_name_without_an_address_is_refused_in_one_line(port_of: object) -> None:
    assert callable(port_of)
    with (
        pytest.raises(RefusedError, match=r"no\.such\.host\.invalid.*listened on"),
        port_of("no.such.host.invalid"),
    ):
        pass


def test_hosts_with_and_without_brackets_join_to_one_address() -> None:
    assert join_address("::1", 5) == join_address("[::1]", 5) == "[::1]:5"
    assert join_address("127.0.0.1", 5) == "127.0.0.1:5"
    assert numeric_host("[::1]") == "::1"
