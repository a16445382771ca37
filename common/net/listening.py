"""Listening sockets in equal address families for all ports of a process."""

from __future__ import annotations

import ipaddress
import socket

from common.net.addresses import cannot_listen, is_unspecified

_EVERY_IPV4, _EVERY_IPV6 = "0.0.0.0", "::"  # noqa: S104 - the user's choice, checked by `check_listen`


def open_listener(host: str, port: int, backlog: int = 128) -> socket.socket:
    """Open a listening TCP socket.

    Args:
        host: address or name of this machine. An unspecified address of either family (0.0.0.0, [::]) stands
            for every address of IPv4 and IPv6, as for a gRPC server; a name stands for one address.
        port: to listen on; 0 takes a free one, the same for both families.
        backlog: upper bound of connections that wait to be accepted.

    Raises:
        OSError: the address cannot be listened on.
    """
    bare = numeric_host(host)
    if is_unspecified(bare):
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                (_EVERY_IPV6, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
            )
        bare = _EVERY_IPV4
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    return socket.create_server((bare, port), family=family, backlog=backlog)


def listen_at(option: str, host: str, port: int) -> socket.socket:
    """Open a listening TCP socket at an address that a command-line option names.

    Raises:
        RefusedError: the address cannot be listened on.
    """
    try:
        return open_listener(host, port)
    except OSError as error:
        raise cannot_listen(option, host, port, error.strerror) from None


def numeric_host(host: str) -> str:
    """Return the numeric address of a host to listen on, without brackets.

    A name may have several addresses. The first one counts, of IPv4 if there is any, so that every port of a
    process listens on one and the same.

    Raises:
        OSError: the name has no address.
    """
    bare = host.strip("[]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return str(found[0][4][0])


def join_address(host: str, port: int) -> str:
    """Join a host, with or without brackets, and a port to HOST:PORT."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"
