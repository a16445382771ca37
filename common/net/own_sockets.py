"""Sockets among the files of this process, also those that a library has opened."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from urllib.parse import unquote

from common.net.addresses import split_address

_FILES = "/proc/self/fd"

# Host and port of a connection's other end.
Peer = tuple[str, int]


def peer_of(text: str) -> Peer | None:
    """Read the library's name of a connection's other end, such as ipv4:10.0.0.1:5000; None: no address.

    Raises:
        ConfigError: a name of an address has another form.
    """
    kind, _, place = unquote(text).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host, port = split_address(place)
    return _plain(host.strip("[]"), port)


def _plain(host: str, port: int) -> Peer:
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address), port


def find_sockets() -> Iterator[tuple[int, int]]:
    """Yield inode and number of each file of this process that is a socket."""
    for name in os.listdir(_FILES):
        with contextlib.suppress(OSError):  # closed meanwhile
            found = os.fstat(int(name))
            if stat.S_ISSOCK(found.st_mode):
                yield found.st_ino, int(name)


@contextlib.contextmanager
def open_socket(file: int, inode: int) -> Iterator[socket.socket | None]:
    """Yield a socket by a file of its own; None if the number has passed to another file."""
    try:
        own = os.dup(file)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        yield None
        return
    try:
        stream = socket.socket(fileno=own) if os.fstat(own).st_ino == inode else None
    except OSError:
        stream = None
    try:
        yield stream
    finally:
        if stream is None:
            os.close(own)
        else:
            stream.close()


def other_end(stream: socket.socket, port: int) -> Peer | None:
    """Return the other end of a connection to a port of this process; None for any other socket."""
    try:
        if stream.family not in (socket.AF_INET, socket.AF_INET6) or stream.getsockname()[1] != port:
            return None
        return _plain(*stream.getpeername()[:2])
    except OSError:  # a listener, or the peer has left
        return None
