"""Visit of a page: both ends of the connection."""

from __future__ import annotations

import asyncio
import ipaddress
from contextvars import ContextVar
from dataclasses import dataclass

from common.net.addresses import is_loopback


@dataclass(frozen=True)
class Visit:
    """Ends of the connection of a request for a page.

    Attributes:
        peer: address of the visitor.
        reached: address of this machine that the visitor has reached.
    """

    peer: str = "127.0.0.1"
    reached: str = "127.0.0.1"

    @property
    def local(self) -> bool:
        """Whether the visitor is a local process."""
        return is_loopback(self.peer) or self.peer == self.reached


_PRESENT: ContextVar[Visit | None] = ContextVar("visit", default=None)


def current_visit() -> Visit:
    """Return the visit of the present task; by default a local one."""
    return _PRESENT.get() or Visit()


def begin_visit(connection: asyncio.StreamWriter) -> None:
    """Set the visit of the present task from a connection."""
    _PRESENT.set(Visit(_host(connection, "peername"), _host(connection, "sockname")))


def _host(connection: asyncio.StreamWriter, end: str) -> str:
    """Return the address of an end; 0.0.0.0 once the peer has left."""
    place = connection.get_extra_info(end)
    address = ipaddress.ip_address(place[0] if place else "0.0.0.0")  # noqa: S104 - nothing listens
    # A port for both families gives the addresses of IPv4 in the form of IPv6.
    return str(getattr(address, "ipv4_mapped", None) or address)
