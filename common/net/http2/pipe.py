"""Bytes out of a socket to where they belong, and into it from where they lie."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress

from common.errors import StalledError
from common.net.http2.frames import BrokenError
from common.shards.pushes import Buffer

# So much is read ahead of what is asked for: heads of frames and small messages come with one system call.
READ_AHEAD_BYTES = 16 << 10
# Who takes nothing of what is written for so long is gone.
WRITE_SECONDS = 30.0
# On an event loop, of so much at a time.
WRITE_BYTES = 1 << 20
# On an event loop, the kernel is to hold back no more than this.
MOST_HELD_BYTES = 1 << 20

_TAKES_NOTHING = "a peer does not take what it asked for"
_CLOSED = "the peer closed the connection"


class Pipe:
    """A connected socket of a thread: its coroutines block, and never suspend.

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

    async def read(self, nbytes: int) -> bytes:
        """So many bytes, a few.

        Raises:
            StalledError: they did not come in time.
        """
        if self._stop - self._start >= nbytes:
            self._start += nbytes
            return bytes(self._ahead[self._start - nbytes : self._start])
        target = bytearray(nbytes)
        await self.into(memoryview(target))
        return bytes(target)

    async def into(self, target: memoryview) -> None:
        """Fill it.

        Raises:
            StalledError: not enough came in time.
        """
        while target.nbytes:
            ahead = self._stop - self._start
            if not ahead and target.nbytes >= READ_AHEAD_BYTES:
                target = target[await self._received(target, socket.MSG_WAITALL) :]
                continue
            if not ahead:
                self._stop = await self._received(self._ahead, 0)
                self._start = 0
            count = min(target.nbytes, self._stop - self._start)
            target[:count] = self._ahead[self._start : self._start + count]
            self._start += count
            target = target[count:]

    async def skip(self, nbytes: int) -> None:
        """Read what nobody wants."""
        while nbytes:
            nbytes -= len(await self.read(min(nbytes, READ_AHEAD_BYTES)))

    def readable(self) -> bool:
        """Whether something has come that was not read."""
        return self._stop > self._start or bool(select.select([self._socket], [], [], 0)[0])

    async def _received(self, target: memoryview, flags: int) -> int:
        try:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise BlockingIOError
            count = self._socket.recv_into(target, 0, flags)
        except BlockingIOError:
            raise StalledError("a peer stood still within a message; send it again") from None
        except OSError as error:
            raise _broken(error) from None
        if not count:
            raise BrokenError(_CLOSED)
        return count

    async def write(self, *parts: Buffer) -> None:
        """All of them, one behind the other."""
        self._write(parts)

    def say(self, frame: bytes) -> None:
        """Have a small frame written, whole, between others; whoever reads does not wait for it."""
        self._write((frame,))

    def _write(self, parts: Iterable[Buffer]) -> None:
        views = [memoryview(part) for part in parts]
        try:
            while views:
                _, views = cut(views, self._socket.sendmsg(views))
        except BlockingIOError:
            raise BrokenError(_TAKES_NOTHING) from None
        except OSError as error:
            raise _broken(error) from None

    def farewell(self, last: bytes) -> None:
        """Say one thing more, if the peer listens."""
        with suppress(OSError, BrokenError):
            self._write((last,))
            self._socket.shutdown(socket.SHUT_WR)
            self.set_deadline(time.monotonic() + 1.0)
            # What is unread when a socket is closed takes back what was said last.
            for _ in range(64):
                if not self._socket.recv(1 << 16):
                    break

    def tell(self) -> None:
        """The peer has said something that a sender may wait for: on a thread, who reads is who sends."""

    def handed_over(self) -> LoopPipe:
        """The same socket for the running event loop; this one is of no more use."""
        return LoopPipe(self._socket, self._ahead[self._start : self._stop])

    def interrupt(self) -> None:
        """End the connection, from another thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self.interrupt()
        self._socket.close()


class LoopPipe(Pipe):
    """A connected socket of an event loop: one task reads from it, and one writes to it, at a time.

    Args:
        stream: the socket.
        ahead: what was read of it before, and nobody has taken.
    """

    def __init__(self, stream: socket.socket, ahead: Buffer = b"") -> None:
        super().__init__(stream)
        stream.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.Lock()
        self._told = asyncio.Event()
        self._gone = False
        self._said: list[bytes] = []
        self._saying: asyncio.Task[None] | None = None
        self._stop = len(ahead)
        self._ahead[: self._stop] = ahead

    async def _received(self, target: memoryview, flags: int) -> int:  # noqa: ARG002 - comes as it comes
        try:
            if target.nbytes > READ_AHEAD_BYTES:
                await self._arrived(target.nbytes)
            count = await self._loop.sock_recv_into(self._socket, target)
        except OSError as error:
            self._lost()
            raise _broken(error) from None
        if not count:
            self._lost()
            raise BrokenError(_CLOSED)
        return count

    async def _arrived(self, nbytes: int) -> None:
        """Until so much has come, or as much as the kernel holds back: woken once, not for every packet."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(nbytes, MOST_HELD_BYTES))
        arrived = self._loop.create_future()
        self._loop.add_reader(self._socket, _wake, arrived)
        try:
            await arrived
        finally:
            self._loop.remove_reader(self._socket)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _lost(self) -> None:
        self._gone = True
        self.tell()

    def tell(self) -> None:
        """The peer has said something that a sender may wait for, or will say nothing more."""
        self._told.set()

    async def news(self) -> None:
        """Until the peer has said something more.

        Raises:
            BrokenError: the connection is gone, or nothing was said for as long as a writer waits.
        """
        if not self._gone:
            self._told.clear()
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._told.wait()
            except TimeoutError:
                raise BrokenError(_TAKES_NOTHING) from None
        if self._gone:
            raise BrokenError(_CLOSED)

    async def write(self, *parts: Buffer) -> None:
        """All of them, one behind the other."""
        async with self._writing:
            await self._say_all()
            await self._sent(parts)

    def say(self, frame: bytes) -> None:
        """Have a small frame written, whole, between others; whoever reads does not wait for it."""
        self._said.append(frame)
        if self._saying is None or self._saying.done():
            self._saying = asyncio.ensure_future(self._say())

    async def _say(self) -> None:
        # Whoever reads notices where the connection is gone.
        with suppress(BrokenError):
            async with self._writing:
                await self._say_all()

    async def _say_all(self) -> None:
        # Settings are to be acknowledged before anything that makes use of them.
        while self._said:
            await self._sent((self._said.pop(0),))

    async def _sent(self, parts: Iterable[Buffer]) -> None:
        views = [memoryview(part) for part in parts]
        try:
            with suppress(BlockingIOError):
                _, views = cut(views, self._socket.sendmsg(views))
            for view in views:  # what the kernel did not take at once
                for start in range(0, view.nbytes, WRITE_BYTES):
                    async with asyncio.timeout(WRITE_SECONDS):
                        await self._loop.sock_sendall(self._socket, view[start : start + WRITE_BYTES])
        except TimeoutError:
            raise BrokenError(_TAKES_NOTHING) from None
        except OSError as error:
            raise _broken(error) from None

    async def ended(self) -> None:
        """End the connection; nobody may be reading or writing."""
        if self._saying is not None:
            self._saying.cancel()
            await asyncio.wait([self._saying])
        self.close()

    async def leave(self, last: bytes, seconds: float) -> None:
        """Say one thing more, and hear the peer out: what is unread on closing takes back what was said."""
        with suppress(OSError, BrokenError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self.write(last)
                self._socket.shutdown(socket.SHUT_WR)
                while await self._loop.sock_recv_into(self._socket, self._ahead):
                    pass


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _broken(error: OSError) -> BrokenError:
    return BrokenError(f"the connection to a peer broke: {error.strerror or error}")


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
