"""Bytes between a socket and the memory that holds or wants them; common part of all pipes."""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from common.net.http2.frames import BrokenError
from common.shards.pushes import Buffer

Result = TypeVar("Result")

# Bytes read ahead of demand: heads of frames and small messages arrive with one system call.
READ_AHEAD_BYTES = 16 << 10
# A peer that takes no byte of a write for so long is gone.
WRITE_SECONDS = 30.0

WRITE_STALLED = "a peer does not take what it asked for"
CLOSED = "the peer closed the connection"


class Pipe(ABC):
    """Connected socket with a buffer of bytes read ahead.

    Raises (every method):
        BrokenError: the connection is gone.
        StalledError: too few bytes arrived before the deadline.
    """

    def __init__(self, stream: socket.socket, ahead: Buffer = b"") -> None:
        self._socket = stream
        # Unlike select, poll takes file descriptors above 1023.
        self._incoming = select.poll()
        self._incoming.register(stream, select.POLLIN)
        self._ahead = memoryview(bytearray(READ_AHEAD_BYTES))
        self._start, self._stop = 0, len(ahead)
        self._ahead[: self._stop] = ahead

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

    @abstractmethod
    async def _receive(self, target: memoryview, *, whole: bool) -> int:
        """Receive at least one byte into a buffer; `whole` prefers to fill the buffer at once."""

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
