"""Visit of a page: both ends of the connection."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

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


async def first_byte(connection: asyncio.StreamWriter, seconds: float) -> bytes:
    """Wait for the first byte from a visitor, and leave it unread; empty where the visitor has left.

    The task must not have waited before, else the byte has been read.

    Raises:
        TimeoutError: nothing came within `seconds`.
    """
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    transport = cast(asyncio.Transport, connection.transport)
    transport.pause_reading()
    # A loop watches no socket of a transport for others.
    with socket.socket(fileno=os.dup(connection.get_extra_info("socket").fileno())) as own:
        loop.add_reader(own, arrived.set)
        try:
            async with asyncio.timeout(seconds):
                await arrived.wait()
            return own.recv(1, socket.MSG_PEEK)
        finally:
            loop.remove_reader(own)
            transport.resume_reading()


def _host(connection: asyncio.StreamWriter, end: str) -> str:
    """Return the address of an end; 0.0.0.0 once the peer has left."""
    place = connection.get_extra_info(end)
    address = ipaddress.ip_address(place[0] if place else "0.0.0.0")  # noqa: S104 - nothing listens
    # A port for both families gives the addresses of IPv4 in the form of IPv6.
    return str(getattr(address, "ipv4_mapped", None) or address)
