"""Pipe of a thread: coroutines that block in the kernel and never suspend."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress

from common.errors import LayerwiseError, StalledError
from common.net.http2 import pipe
from common.net.http2.frames import BrokenError
from common.net.http2.loop_pipe import LoopPipe
from common.net.http2.pipe import CLOSED, Limit, Pipe, broken, cut, run_sync
from common.shards.pushes import Buffer

# A farewell waits so long, and for so many reads, until the peer has closed.
FAREWELL_SECONDS, FAREWELL_READS = 1.0, 256
# A read may end so much earlier or later than the deadline, as a share of the wait.
DEADLINE_TOLERANCE = 0.01
# A reader that takes a piece of a shard within so long is sent the piece without a copy.
OFFER_SECONDS = 0.02
_STOOD_STILL = "a peer stood still within a message"


class ThreadPipe(Pipe):
    """Connected socket of a thread, in the clear."""

    def __init__(self, stream: socket.socket) -> None:
        super().__init__(stream)
        self._deadline: float | None = None
        self._pace: Limit | None = None
        # Seconds that the kernel lets a read wait; 0 stands for ever.
        self._kernel_seconds = 0.0
        # Seconds that the kernel lets a write wait.
        self._send_seconds = 0.0
        self._successor: LoopPipe | None = None
        self._set_up()

    def _set_up(self) -> None:
        # The kernel keeps the deadlines: with Python's timeouts a chunk would take many system calls.
        self._socket.settimeout(None)

    def set_deadline(self, moment: float | None) -> None:
        """Set the monotonic time by which reads must be through; None disables every bound."""
        self._deadline, self._pace = moment, None

    def set_pace(self, pace: Limit) -> None:
        """Bound the reads by rate, in the place of a deadline."""
        self._deadline, self._pace = None, pace

    def _tell_kernel(self) -> None:
        """Have the kernel end the next read near the deadline.

        Calls in sequence wait equally long, so the kernel mostly has the right value already.

        Raises:
            BlockingIOError: the deadline has passed.
        """
        if self._pace is not None:
            seconds = self._pace.seconds
        elif self._deadline is None:
            seconds = 0.0
        elif (seconds := self._deadline - time.monotonic()) <= 0:
            raise BlockingIOError
        if abs(seconds - self._kernel_seconds) > DEADLINE_TOLERANCE * seconds:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
            self._kernel_seconds = seconds

    async def _receive(self, target: memoryview, *, whole: bool) -> int:
        while (count := self._receive_some(target, whole=whole)) is None:
            if self._pace is None:
                raise StalledError(_STOOD_STILL)
            self._pace.take(0)
        if not count:
            raise BrokenError(CLOSED)
        if self._pace is not None:
            self._pace.take(count)
        return count

    def _receive_some(self, target: memoryview, *, whole: bool) -> int | None:
        """Receive what comes in time; None where nothing does."""
        try:
            self._tell_kernel()
            return self._socket.recv_into(target, 0, socket.MSG_WAITALL if whole else 0)
        except BlockingIOError:
            return None
        except OSError as error:
            raise broken(error) from None

    async def write(self, *parts: Buffer) -> None:
        """Write parts in order."""
        await self._send(parts)

    def enqueue(self, frame: bytes) -> None:
        """Write a small frame at once: a thread reads and writes in turn."""
        run_sync(self._send((frame,)))

    async def _send_all(self, views: list[memoryview]) -> None:
        left = sum(view.nbytes for view in views)
        while (sent := self._send_some(views, pipe.WRITE_SECONDS)) < left:
            # The kernel has waited for WRITE_SECONDS.
            if not self.keeps_up():
                raise TimeoutError
            _, views = cut(views, sent)
            left -= sent

    def offer(self, views: list[memoryview]) -> list[memoryview]:
        """Write what the peer takes within OFFER_SECONDS; returns the views that are left."""
        try:
            sent = self._send_some(views, OFFER_SECONDS)
        except OSError as error:
            self.interrupt()
            raise broken(error) from None
        return [] if sent == sum(view.nbytes for view in views) else cut(views, sent)[1]

    def _send_some(self, views: list[memoryview], seconds: float) -> int:
        """Send what the kernel takes within `seconds`; pieces in sequence wait equally long."""
        if seconds != self._send_seconds:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(seconds))
            self._send_seconds = seconds
        try:
            return self._socket.sendmsg(views)
        except BlockingIOError:
            return 0

    def notify(self) -> None:
        """Do nothing: a thread that reads does not wait for news."""

    def farewell(self, last: bytes) -> None:
        """Write a last frame and read until the peer closes, within a bound.

        Unread bytes in a socket that is closed would take the last frame back.
        """
        with suppress(OSError, LayerwiseError):
            self.enqueue(last)
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            self.set_deadline(time.monotonic() + FAREWELL_SECONDS)
            for _ in range(FAREWELL_READS):
                run_sync(self._receive(self._ahead, whole=False))

    def hand_over(self) -> LoopPipe:
        """Move the socket to the running event loop; this pipe keeps the right to interrupt."""
        self._successor = self._on_loop(self._ahead[self._start : self._stop])
        return self._successor

    def _on_loop(self, ahead: Buffer) -> LoopPipe:
        return LoopPipe(self._socket, ahead)

    def interrupt(self) -> None:
        """End the connection, from another thread."""
        if self._successor is not None:
            self._successor.interrupt_from_thread()
        with suppress(OSError):
            # The plain socket's method: that of a TLS socket would drop the session under a reader.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self.interrupt()
        self._socket.close()


def _timeval(seconds: float) -> bytes:
    # A microsecond at least: the kernel reads zero as no limit.
    whole, rest = divmod(seconds, 1)
    return struct.pack("ll", int(whole), max(int(rest * 1e6), int(0 < seconds < 1)))
