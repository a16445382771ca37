"""Addresses HOST:PORT: parsing, which of them are safe to listen on, and which interface reaches a peer."""

from __future__ import annotations

import ipaddress
import socket

from common.errors import ConfigError, RefusedError


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT as its two parts.

    Raises:
        ConfigError: it is no such thing.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ConfigError(f"{address}: is no address; expected HOST:PORT, for example 127.0.0.1:50051")
    return host, int(port)


def cannot_listen(option: str, host: str, port: int, reason: str | None = None) -> RefusedError:
    """What to say where an address that an option names cannot be listened on."""
    why = f" ({reason})" if reason else ""
    return RefusedError(
        f"{option} {host}:{port}: cannot be listened on{why}: port {port} is taken, or {host} is no address "
        "of this machine; choose another port, or stop the program that has it"
    )


def is_loopback(host: str) -> bool:
    """Whether a host can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_listen(address: str, insecure: bool, option: str = "--listen") -> None:
    """Refuse to listen beyond this machine in the clear, unless it was asked for.

    Raises:
        ConfigError: it was not.
    """
    host, _ = split_address(address)
    if not insecure and not is_loopback(host):
        raise ConfigError(
            f"{option} {address}: anyone who reaches this address could read and change the run; "
            "say --insecure if the network is yours alone"
        )


def interface_to(address: str) -> str:
    """The address, without a port, of this machine's interface that reaches another address.

    Raises:
        ConfigError: there is no way to it.
    """
    host, port = split_address(address)
    try:
        family, *_, there = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(there)  # of datagrams: asks for the way, and sends nothing
            here = str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(f"{address}: {error.strerror}; check the address and the network") from None
    return f"[{here}]" if family == socket.AF_INET6 else here


def is_unspecified(host: str) -> bool:
    """Whether a host stands for every interface of this machine (0.0.0.0, [::])."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
