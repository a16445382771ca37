"""Pipe of an event loop, which a task reads while a second task writes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from common.errors import UnreachableError
from common.net.http2 import pipe
from common.net.http2.frames import BrokenError, Code, ProtocolError
from common.net.http2.pipe import CLOSED, WRITE_STALLED, Pipe, broken, cut
from common.shards.pushes import Buffer

# An event loop serves its other connections after so many bytes of one.
TURN_BYTES = 1 << 20
# Small frames that wait for a peer that takes no answers; one more ends the connection.
MOST_WAITING = 256
# Upper bound of the bytes that the kernel holds back before the reader is woken.
MOST_HELD_BYTES = 1 << 20


class LoopPipe(Pipe):
    """Connected socket of an event loop, in the clear.

    Args:
        stream: the socket.
        ahead: bytes of the socket that were read before and not taken.

    Attributes:
        received_at: the loop's time at which bytes last arrived.
        received: number of bytes that have arrived.
    """

    def __init__(self, stream: socket.socket, ahead: Buffer = b"") -> None:
        super().__init__(stream, ahead)
        stream.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self.received_at = self._loop.time()
        self.received = 0
        self._turn_bytes = 0
        self._writing = asyncio.Lock()
        self._news = asyncio.Event()
        self._gone = False
        self._small: list[bytes] = []
        self._flushing: asyncio.Task[None] | None = None

    async def _receive(self, target: memoryview, *, whole: bool) -> int:
        if self._turn_bytes > TURN_BYTES:
            await self.pause()
        try:
            count = await self._receive_some(target, whole=whole)
        except OSError as error:
            self._lose()
            raise broken(error) from None
        if not count:
            self._lose()
            raise BrokenError(CLOSED)
        self.received_at = self._loop.time()
        self._turn_bytes += count
        self.received += count
        return count

    async def pause(self) -> None:
        """Let the other connections of the event loop have their turn."""
        self._turn_bytes = 0
        await asyncio.sleep(0)

    async def _receive_some(self, target: memoryview, *, whole: bool) -> int:
        if whole:
            await self._arrival(target.nbytes)
        return await self._loop.sock_recv_into(self._socket, target)

    async def _arrival(self, nbytes: int) -> None:
        """Wait for `nbytes`, or as many as the kernel holds back: one wake-up instead of one a packet."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(nbytes, MOST_HELD_BYTES))
        arrived = self._loop.create_future()
        self._loop.add_reader(self._socket, wake, arrived)
        try:
            await arrived
        finally:
            self._loop.remove_reader(self._socket)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _lose(self) -> None:
        self._gone = True
        self.notify()

    def interrupt(self) -> None:
        """End the connection: reader and writer raise."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._lose()

    def interrupt_from_thread(self) -> None:
        """End the connection, from another thread."""
        with suppress(RuntimeError):  # a closed loop has no reader and no writer left
            self._loop.call_soon_threadsafe(self.interrupt)

    def notify(self) -> None:
        """Wake a writer: the peer has said something, or is gone."""
        self._news.set()

    async def wait_for_news(self) -> None:
        """Wait until the peer has said something more.

        Raises:
            BrokenError: the connection is gone, or the peer was silent for WRITE_SECONDS.
        """
        if not self._gone:
            self._news.clear()
            try:
                async with asyncio.timeout(pipe.WRITE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                raise BrokenError(WRITE_STALLED) from None
        if self._gone:
            raise BrokenError(CLOSED)

    async def write(self, *parts: Buffer) -> None:
        """Write parts in order, behind the small frames that wait."""
        async with self._writing:
            await self._flush()
            await self._send(parts)

    def enqueue(self, frame: bytes) -> None:
        """Have a small frame written between others; the reader goes on at once.

        Raises:
            ProtocolError: the peer asks and asks, and takes no answers.
        """
        if len(self._small) >= MOST_WAITING:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "the peer takes no answers")
        self._small.append(frame)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.ensure_future(self._flush_alone())

    async def _flush_alone(self) -> None:
        # The reader notices a lost connection.
        with suppress(BrokenError):
            async with self._writing:
                await self._flush()

    async def _flush(self) -> None:
        # SETTINGS must be acknowledged before a frame makes use of them.
        while self._small:
            await self._send((self._small.pop(0),))

    async def _send_all(self, views: list[memoryview]) -> None:
        while True:
            with suppress(BlockingIOError):
                _, views = cut(views, self._socket.sendmsg(views))
            if not views:
                return
            try:
                async with asyncio.timeout(pipe.WRITE_SECONDS):
                    await self._departure()
            except TimeoutError:
                if not self.keeps_up():
                    raise

    async def _departure(self) -> None:
        """Wait until the kernel takes bytes again."""
        ready = self._loop.create_future()
        self._loop.add_writer(self._socket, wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_writer(self._socket)

    async def leave(self, last: bytes, seconds: float) -> None:
        """Write a last frame and read until the peer closes, for at most `seconds`.

        Unread bytes in a socket that is closed would take the last frame back.
        """
        with suppress(OSError, UnreachableError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self.write(last)
                socket.socket.shutdown(self._socket, socket.SHUT_WR)
                while True:
                    await self._receive(self._ahead, whole=False)

    async def close(self) -> None:
        """End the connection, once no task reads or writes."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.wait([self._flushing])
        self.interrupt()
        self._socket.close()


def wake(waiting: asyncio.Future[None]) -> None:
    """Finish a future unless it has ended."""
    if not waiting.done():
        waiting.set_result(None)
