"""Bytes out of a socket to where they belong, and into it from where they lie."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress

from common.errors import StalledError
from common.http2.frames import BrokenError
from common.messages import Buffer

# So much is read ahead of what is asked for: heads of frames and small messages come with one system call.
READ_AHEAD_BYTES = 16 << 10
# Who takes nothing of what is written for so long is gone.
WRITE_SECONDS = 30.0


class Pipe:
    """A connected socket.

    Raises (every method):
        BrokenError: the connection is gone.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream
        # The kernel's timeouts: with Python's, a chunk would come and go in many system calls.
        stream.settimeout(None)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(WRITE_SECONDS))
        self._deadline: float | None = None
        self._ahead = memoryview(bytearray(READ_AHEAD_BYTES))
        self._start = self._stop = 0

    def set_deadline(self, moment: float | None) -> None:
        """What has not come by then (monotonic) never will; None: it has all the time."""
        self._deadline = moment
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(self._patience()))

    def _patience(self) -> float:
        """Seconds, 0 for any number of them."""
        return 0.0 if self._deadline is None else max(1e-3, self._deadline - time.monotonic())

    def read(self, nbytes: int) -> bytes:
        """So many bytes, a few.

        Raises:
            StalledError: they did not come in time.
        """
        if self._stop - self._start >= nbytes:
            self._start += nbytes
            return bytes(self._ahead[self._start - nbytes : self._start])
        target = bytearray(nbytes)
        self.into(memoryview(target))
        return bytes(target)

    def into(self, target: memoryview) -> None:
        """Fill it.

        Raises:
            StalledError: not enough came in time.
        """
        while target.nbytes:
            ahead = self._stop - self._start
            if not ahead and target.nbytes >= READ_AHEAD_BYTES:
                target = target[self._received(target, socket.MSG_WAITALL) :]
                continue
            if not ahead:
                self._start, self._stop = 0, self._received(self._ahead, 0)
            count = min(target.nbytes, self._stop - self._start)
            target[:count] = self._ahead[self._start : self._start + count]
            self._start += count
            target = target[count:]

    def skip(self, nbytes: int) -> None:
        """Read what nobody wants."""
        while nbytes:
            nbytes -= len(self.read(min(nbytes, READ_AHEAD_BYTES)))

    def readable(self) -> bool:
        """Whether something has come that was not read."""
        return self._stop > self._start or bool(select.select([self._socket], [], [], 0)[0])

    def _received(self, target: memoryview, flags: int) -> int:
        try:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise BlockingIOError
            count = self._socket.recv_into(target, 0, flags)
        except BlockingIOError:
            raise StalledError("a peer stood still within a message; send it again") from None
        except OSError as error:
            raise BrokenError(f"the connection to a peer broke: {error.strerror or error}") from None
        if not count:
            raise BrokenError("the peer closed the connection")
        return count

    def write(self, *parts: Buffer) -> None:
        """All of them, one behind the other."""
        views = [memoryview(part) for part in parts]
        try:
            while views:
                _, views = cut(views, self._socket.sendmsg(views))
        except BlockingIOError:
            raise BrokenError("a peer does not take what it asked for") from None
        except OSError as error:
            raise BrokenError(f"the connection to a peer broke: {error.strerror or error}") from None

    def farewell(self, last: bytes) -> None:
        """Say one thing more, if the peer listens."""
        with suppress(OSError, BrokenError):
            self.write(last)
            self._socket.shutdown(socket.SHUT_WR)
            self.set_deadline(time.monotonic() + 1.0)
            # What is unread when a socket is closed takes back what was said last.
            for _ in range(64):
                if not self._socket.recv(1 << 16):
                    break

    def interrupt(self) -> None:
        """End the connection, from another thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self.interrupt()
        self._socket.close()


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))


def cut(views: Iterable[memoryview], count: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first so many bytes, and the rest."""
    first: list[memoryview] = []
    rest: list[memoryview] = []
    for view in views:
        if count:
            first.append(view[:count])
        if view.nbytes > count:
            rest.append(view[count:])
        count -= min(count, view.nbytes)
    return first, rest
