"""Parameters.Push and Parameters.Pull into and from the shards' own buffers, on a thread a connection."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from common.errors import MalformedError, StalledError, TooLargeError, UnreachableError
from common.net.data.messages import Messages
from common.net.data.server import Server
from common.shards.assembly import Assembly
from common.shards.pushes import Operation, PushReply
from common.wire.methods import PULL, PUSH
from common.wire.payloads import CHUNK_BYTES, decode_frame, encode_frame, frame_parts, frames

if TYPE_CHECKING:
    from master.service import Master
    from master.store.shard import Reading
    from master.store.store import Pieces

# Large pushes (over a chunk) in the master's memory at a time; further ones wait in their senders' windows.
LARGE_PUSHES = 2
# How long such a push may stand still; and beyond that, how many bytes a second have to come.
STALLED_SECONDS = 30.0
SLOWEST = 1 << 20
# How long others wait for a push that is received into its shard's idle buffer; then it is dropped, and comes
# in through memory of its own when it is sent again.
PUSHER_SECONDS = 2.0


class Parameters:
    """Push and Pull over one master."""

    def __init__(self, master: Master, stalled_seconds: float = STALLED_SECONDS) -> None:
        self._master = master
        self._stalled_seconds = stalled_seconds

    def register(self, server: Server) -> None:
        """Serve both."""
        server.add(PUSH, self.push)
        server.add(PULL, self.pull)

    def push(self, messages: Messages) -> None:
        """Pushes one after the other, each answered."""
        pace = float("inf")
        while (encoded := messages.read()) is not None:
            began = time.monotonic()
            frame = decode_frame(encoded)
            push = Incoming(self._master, messages, Assembly(frame, self._master.admit(frame.header)))
            self._master.counters.add(bytes_received=len(frame.data))
            del encoded, frame
            reply = push.taken(pace, self._stalled_seconds)
            if push.nbytes > CHUNK_BYTES:
                pace = (time.monotonic() - began) / push.nbytes
            messages.connection.pipe.set_deadline(None)
            messages.send(PUSH.reply.encode(reply))

    def pull(self, messages: Messages) -> None:
        """One consistent version."""
        encoded = messages.read()
        if encoded is None or messages.read() is not None:
            raise MalformedError("a pull has one request")
        reading = self._master.read(PULL.request.decode(bytes(encoded)))
        try:
            self._send(messages, reading)
        finally:
            reading.release()

    def _send(self, messages: Messages, reading: Reading) -> None:
        """The frames of a version, from where it lies; a small one is copied, so that no push waits."""
        for frame in frames(reading.header, reading.buffer):
            small = reading.header.table.nbytes <= CHUNK_BYTES
            parts = (encode_frame(frame),) if small else frame_parts(frame)
            if small:
                reading.release()
            messages.send(*parts)
            # Asked after it was sent: without the status that follows the last frame, nothing counts.
            if reading.revoked:
                raise UnreachableError(
                    f"{reading.header.shard}: pushes could not wait for this reader; pull again"
                )
            self._master.counters.add(bytes_sent=sum(len(part) for part in parts))


class Incoming:
    """One push, whose first frame has come.

    A large one is received into the shard's idle buffer and becomes the result there, piece by piece, while
    others of the shard wait: only the commit makes it true. That is for senders that are known to be fast;
    what others send, and a creation, is kept in memory until it is whole.
    """

    def __init__(self, master: Master, messages: Messages, assembly: Assembly) -> None:
        self.nbytes = assembly.header.table.nbytes
        self._master = master
        self._messages = messages
        self._assembly = assembly
        self._stopped = False
        self._until = 0.0

    def taken(self, pace: float, stalled_seconds: float) -> PushReply:
        """The outcome, once it is applied.

        Args:
            pace: seconds a byte that this sender took last.
            stalled_seconds: how long it may stand still where nobody waits for it.

        Raises:
            StalledError: it did not come in time.
            LayerwiseError: it is refused.
        """
        header = self._assembly.header
        if self._assembly.complete:
            return self._master.push(header, self._assembly.pieces)
        if self.nbytes <= CHUNK_BYTES:
            return self._master.push(header, self._whole(stalled_seconds))
        if header.operation is not Operation.CREATE and pace * self.nbytes < PUSHER_SECONDS / 2:
            return self._landed(stalled_seconds)
        with self._master.large_pushes.hold():
            return self._master.push(header, self._whole(stalled_seconds))

    def _whole(self, stalled_seconds: float) -> Pieces:
        """All of it, in memory of its own."""
        try:
            buffer = np.empty(self.nbytes, np.uint8)
        except MemoryError:
            raise TooLargeError(f"{self._assembly.header.shard}: no memory for {self.nbytes} bytes") from None
        self._begun(buffer.data)
        last = time.monotonic() + stalled_seconds + self.nbytes / SLOWEST
        while not self._assembly.complete:
            self._next(buffer.data, min(last, time.monotonic() + stalled_seconds))
        return [(0, buffer.data)]

    def _landed(self, stalled_seconds: float) -> PushReply:
        """Apply it as it comes; where it is not to be applied, receive it all the same."""
        self._until = time.monotonic() + PUSHER_SECONDS
        reply = self._master.land(self._assembly.header, self._landing)
        if not self._assembly.complete:
            with self._master.large_pushes.hold():
                self._whole(stalled_seconds)
        return reply

    @contextmanager
    def _landing(self, idle: memoryview) -> Iterator[Pieces]:
        """Its pieces, received into the idle buffer by a thread of their own."""
        landed: queue.SimpleQueue[slice | None] = queue.SimpleQueue()
        with ThreadPoolExecutor(1, "receiver") as receiver:
            landed.put(self._begun(idle))
            received = receiver.submit(self._receive, idle, landed)
            try:
                yield _pieces(idle, landed, received)
            finally:
                # The buffer is others' from now on.
                self._stopped = True

    def _receive(self, idle: memoryview, landed: queue.SimpleQueue[slice | None]) -> None:
        try:
            while not self._assembly.complete and not self._stopped:
                landed.put(self._next(idle, self._until))
        finally:
            landed.put(None)

    def _begun(self, buffer: memoryview) -> slice:
        """Put what came with the header into its place."""
        stop = 0
        for offset, piece in self._assembly.pieces:
            stop = offset + piece.nbytes
            buffer[offset:stop] = piece
        self._assembly.pieces.clear()
        return slice(0, stop)

    def _next(self, buffer: memoryview, deadline: float) -> slice:
        """Receive the next piece to its place."""
        self._messages.connection.pipe.set_deadline(deadline)
        try:
            where = self._messages.land(self._assembly, buffer)
        except StalledError:
            raise StalledError(
                f"{self._assembly.header.shard}: the push came to a standstill and was dropped; send it again"
            ) from None
        if where is None:
            raise MalformedError(f"{self._assembly.header.shard}: the stream ended within a push")
        self._master.counters.add(bytes_received=where.stop - where.start)
        return where


def _pieces(
    idle: memoryview, landed: queue.SimpleQueue[slice | None], received: Future[None]
) -> Iterator[tuple[int, memoryview]]:
    while (where := landed.get()) is not None:
        yield where.start, idle[where]
    received.result()
