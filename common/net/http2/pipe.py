"""Bytes between a socket and the memory that holds or wants them; common part of all pipes."""

from __future__ import annotations

import select
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from common.credentials import Certificate
from common.net.http2.frames import BrokenError
from common.shards.pushes import Buffer

Result = TypeVar("Result")

# Bytes read ahead of demand: heads of frames and small messages arrive with one system call.
READ_AHEAD_BYTES = 16 << 10
# A write that has waited for so long goes on while the peer takes so many bytes a second, a third of what a
# link of 100 kbit/s carries.
WRITE_SECONDS, SLOWEST_BYTES = 30.0, 4 << 10
# Place of the acknowledged bytes in Linux's `struct tcp_info`.
_ACKNOWLEDGED = slice(120, 128)

WRITE_STALLED = "a peer does not take what it asked for"
CLOSED = "the peer closed the connection"


class Limit(Protocol):
    """Bound of the reads of a thread by rate.

    Attributes:
        seconds: longest wait of a read until the bound is asked.
    """

    seconds: float

    def take(self, nbytes: int) -> None:
        """Count received bytes; zero after a wait without any.

        Raises:
            LayerwiseError: the peer is too slow.
        """


class Pipe(ABC):
    """Connected socket with a buffer of bytes read ahead.

    Attributes:
        certificate: of the peer, after a handshake over TLS; None in the clear.

    Raises (every method):
        BrokenError: the connection is gone.
        StalledError: too few bytes arrived before the deadline.
    """

    certificate: Certificate | None = None

    def __init__(self, stream: socket.socket, ahead: Buffer = b"") -> None:
        self._socket = stream
        # Unlike select, poll takes file descriptors above 1023.
        self._incoming = select.poll()
        self._incoming.register(stream, select.POLLIN)
        self._ahead = memoryview(bytearray(READ_AHEAD_BYTES))
        self._start, self._stop = 0, len(ahead)
        self._ahead[: self._stop] = ahead
        self._acknowledged = 0

    @property
    def peer(self) -> str:
        """Name of the peer's certificate; empty in the clear."""
        return self.certificate.holder if self.certificate else ""

    async def handshake(self) -> None:
        """Prepare the socket for payload; a socket without TLS is ready."""
        return

    async def read(self, nbytes: int) -> bytes:
        """Read exactly `nbytes` bytes, of a head or a small frame."""
        if self._stop - self._start >= nbytes:
            self._start += nbytes
            return bytes(self._ahead[self._start - nbytes : self._start])
        target = bytearray(nbytes)
        await self.into(memoryview(target))
        return bytes(target)

    async def into(self, target: memoryview) -> None:
        """Fill a buffer."""
        while target.nbytes:
            ahead = self._stop - self._start
            if not ahead and target.nbytes >= READ_AHEAD_BYTES:
                target = target[await self._receive(target, whole=True) :]
                continue
            if not ahead:
                self._stop = await self._receive(self._ahead, whole=False)
                self._start = 0
            count = min(target.nbytes, self._stop - self._start)
            target[:count] = self._ahead[self._start : self._start + count]
            self._start += count
            target = target[count:]

    async def skip(self, nbytes: int) -> None:
        """Read and drop `nbytes` bytes."""
        while nbytes:
            nbytes -= len(await self.read(min(nbytes, READ_AHEAD_BYTES)))

    def readable(self) -> bool:
        """Whether unread payload has arrived."""
        if self._stop > self._start:
            return True
        return bool(self._incoming.poll(0))

    def acknowledged(self) -> int:
        """Count the bytes that the peer has acknowledged so far; 0 where the kernel does not tell."""
        try:
            facts = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.stop)
        except (OSError, AttributeError):
            return 0
        return int.from_bytes(facts[_ACKNOWLEDGED], sys.byteorder)

    def keeps_up(self) -> bool:
        """Whether the peer has taken SLOWEST_BYTES a second for WRITE_SECONDS since the last call."""
        before, self._acknowledged = self._acknowledged, self.acknowledged()
        return self._acknowledged - before >= SLOWEST_BYTES * WRITE_SECONDS

    @abstractmethod
    async def _receive(self, target: memoryview, *, whole: bool) -> int:
        """Receive at least one byte into a buffer; `whole` prefers to fill the buffer at once."""

    async def _send(self, parts: Iterable[Buffer]) -> None:
        """Send parts; a connection whose write ends half-way is of no more use, and is interrupted."""
        try:
            await self._send_all([memoryview(part) for part in parts])
        except TimeoutError:
            self.interrupt()
            raise BrokenError(WRITE_STALLED) from None
        except OSError as error:
            self.interrupt()
            raise broken(error) from None
        except BaseException:  # a cancelled task
            self.interrupt()
            raise

    def offer(self, views: list[memoryview]) -> list[memoryview]:
        """Write what the peer takes at once or nearly so; returns the views that are left."""
        return views

    @abstractmethod
    async def _send_all(self, views: list[memoryview]) -> None:
        """Send views in order; TimeoutError where the peer does not take the bytes."""

    async def pause(self) -> None:
        """Let the other connections of the event loop have their turn; a thread has one connection."""
        return

    @abstractmethod
    def interrupt(self) -> None:
        """End the connection: whoever reads or writes finds the end."""

    @abstractmethod
    async def write(self, *parts: Buffer) -> None:
        """Write parts in order."""

    @abstractmethod
    def enqueue(self, frame: bytes) -> None:
        """Write a small frame between others, without delay for the reader that asks for the write."""

    @abstractmethod
    def notify(self) -> None:
        """Wake a writer that waits for news of the peer."""


def run_sync(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never suspends, and return the result."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    raise AssertionError("a thread's connection has suspended")


def broken(error: OSError) -> BrokenError:
    """Wrap a socket's error."""
    return BrokenError(f"the connection to a peer broke: {error.strerror or error}")


def cut(views: Iterable[memoryview], count: int) -> tuple[list[memoryview], list[memoryview]]:
    """Cut the first `count` bytes off a sequence of views."""
    first: list[memoryview] = []
    rest: list[memoryview] = []
    for view in views:
        if count:
            first.append(view[:count])
        if view.nbytes > count:
            rest.append(view[count:])
        count -= min(count, view.nbytes)
    return first, rest
