"""Parameters.Push and Parameters.Pull at the data port: straight into and out of the shards' buffers.

Each connection has a thread, which may block.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from common.credentials import check_same
from common.errors import MalformedError, StalledError, TooLargeError
from common.net.data.callers import Requests
from common.net.data.messages import Messages
from common.net.data.server import DataServer
from common.net.http2.pace import Pace
from common.net.http2.pipe import SLOWEST_BYTES
from common.shards.assembly import Assembly
from common.shards.pushes import Buffer, Frame, Operation, PushReply
from common.shards.table import Precision
from common.wire.methods import PULL, PUSH
from common.wire.payloads import CHUNK_BYTES, decode_frame, encode_frame, frame_parts
from master.parameters import ParameterService
from master.servicers.large_pushes import STALLED_SECONDS, LargePushes
from master.store.shard import Reading
from master.store.store import Pieces
from master.tally import Tally

# How long other pushes wait for a push that lands in the shard's idle buffer. The late push is dropped, and
# kept in memory when its sender tries again.
PUSHER_SECONDS = 2.0


class ParametersServicer:
    """Pushes and pulls of a run."""

    def __init__(
        self, service: ParameterService, tally: Tally, stalled_seconds: float = STALLED_SECONDS
    ) -> None:
        self._service = service
        self._tally = tally
        self._stalled_seconds = stalled_seconds
        self._large_pushes = LargePushes(stalled_seconds)

    def register(self, server: DataServer) -> None:
        """Register Push and Pull."""
        server.add(PUSH, self.push)
        server.add(PULL, self.pull)

    def push(self, messages: Requests) -> None:
        """Answer the pushes of a call, in order.

        Raises:
            LayerwiseError: a push is refused, which ends the call.
        """
        pace = float("inf")
        while (encoded := messages.read()) is not None:
            began = time.monotonic()
            frame = decode_frame(encoded)
            if frame.header is not None:
                check_same(frame.header.incarnation, messages.incarnation)
            assembly = Assembly(frame, self._service.admit(frame.header))
            self._tally.add(bytes_received=len(frame.data))
            del encoded, frame
            incoming = IncomingPush(self._service, self._tally, messages, assembly, self._stalled_seconds)
            reply = incoming.apply(pace, self._large_pushes)
            if incoming.nbytes > CHUNK_BYTES:
                pace = (time.monotonic() - began) / incoming.nbytes
            messages.connection.pipe.set_deadline(time.monotonic() + self._stalled_seconds)
            messages.send(PUSH.reply.encode(reply))

    def pull(self, messages: Requests) -> None:
        """Send a consistent version.

        Raises:
            MalformedError: no request, or several.
            UnprovenError: the request names a lease whose secret the call has not shown.
            UnreachableError: the reader is slower than further slow readers of the shard.
        """
        encoded = messages.read()
        if encoded is None or messages.read() is not None:
            raise MalformedError("a pull has one request")
        request = PULL.request.decode(bytes(encoded))
        if request.incarnation:
            check_same(request.incarnation, messages.incarnation)
        reading = self._service.read(request)
        try:
            self._send(messages, reading)
        finally:
            reading.release()

    def _send(self, messages: Messages, reading: Reading) -> None:
        """Send a version's frames from the shard's buffer; a small shard is copied, to let pushes go on."""
        nbytes = reading.header.nbytes
        if nbytes <= CHUNK_BYTES:
            message = encode_frame(Frame(reading.header, 0, reading.buffer))
            reading.release()
            self._send_parts(messages, (message,), lambda: None)
            return
        reading.movable = True
        start = 0
        while start < nbytes:
            messages.connection.take_news()
            with reading.piece(start, CHUNK_BYTES) as (piece, let_go):
                parts = frame_parts(Frame(None if start else reading.header, start, piece))
                sent = len(piece)
                self._send_parts(messages, parts, let_go)
            start += sent

    def _send_parts(self, messages: Messages, parts: tuple[Buffer, ...], let_go: Callable[[], None]) -> None:
        nbytes = sum(len(part) for part in parts)
        patience = self._stalled_seconds + nbytes / SLOWEST_BYTES
        messages.connection.pipe.set_deadline(time.monotonic() + patience)
        messages.send(*parts, let_go=let_go)
        self._tally.add(bytes_sent=nbytes)


class IncomingPush:
    """Push under way, after the first frame.

    A large push of a fast sender lands: a thread receives the change into the shard's idle buffer while
    another turns the pieces there into the result. Other pushes of the shard wait meanwhile, and only the
    commit makes the result the shard. A slow sender's push, a narrow push, a fragment and a creation are
    kept in memory until complete.

    Args:
        service: the shards.
        tally: counts received bytes.
        messages: the call, read up to the first frame.
        assembly: the push, holding its first frame.
        stalled_seconds: longest standstill while no other push waits.
    """

    def __init__(
        self,
        service: ParameterService,
        tally: Tally,
        messages: Messages,
        assembly: Assembly,
        stalled_seconds: float,
    ) -> None:
        self.nbytes = assembly.header.nbytes
        self._service = service
        self._tally = tally
        self._messages = messages
        self._assembly = assembly
        self._stalled_seconds = stalled_seconds
        self._stopped = False

    def apply(self, pace: float, places: LargePushes) -> PushReply:
        """Receive the rest, and apply.

        Args:
            pace: seconds for a byte of the sender's last large push.
            places: for pushes kept in memory.

        Raises:
            StalledError: the push did not come in time.
            LayerwiseError: the push is refused.
        """
        header = self._assembly.header
        if self._assembly.complete:
            return self._service.push(header, self._assembly.pieces)
        if self.nbytes <= CHUNK_BYTES:
            return self._service.push(header, self._receive_all(Pace(self._stalled_seconds)))
        if self._can_land and pace * self.nbytes < PUSHER_SECONDS / 2:
            return self._land(places)
        with places.hold(header.shard, header.replica) as place:
            return self._service.push(header, self._receive_all(place))

    @property
    def _can_land(self) -> bool:
        """Whether the push's bytes have the layout of the shard's buffer."""
        header = self._assembly.header
        whole = header.precision is Precision.FLOAT32 and not header.fragments
        return header.operation is not Operation.CREATE and whole

    def _receive_all(self, pace: Pace) -> Pieces:
        """Receive the push into fresh memory, at least at a pace."""
        try:
            buffer = np.empty(self.nbytes, np.uint8)
        except MemoryError:
            raise TooLargeError(f"{self._assembly.header.shard}: no memory for {self.nbytes} bytes") from None
        self._place_first(buffer.data)
        self._messages.connection.pipe.set_pace(pace)
        while not self._assembly.complete:
            self._receive_piece(buffer.data)
        return [(0, buffer.data)]

    def _land(self, places: LargePushes) -> PushReply:
        """Apply the push while frames come in; a push that is not applied is received and dropped."""
        header = self._assembly.header
        self._messages.connection.pipe.set_deadline(time.monotonic() + PUSHER_SECONDS)
        reply = self._service.land(header, self._receive_into)
        if not self._assembly.complete:
            with places.hold(header.shard, header.replica) as place:
                self._receive_all(place)
        return reply

    @contextmanager
    def _receive_into(self, idle: memoryview) -> Iterator[Pieces]:
        """Receive the pieces into the idle buffer on a thread, and yield them as they come."""
        landed: queue.SimpleQueue[slice | None] = queue.SimpleQueue()
        with ThreadPoolExecutor(1, "receiver") as receiver:
            landed.put(self._place_first(idle))
            receiving = receiver.submit(self._receive_rest, idle, landed)
            try:
                yield _iterate_pieces(idle, landed, receiving)
            finally:
                # From now on the buffer belongs to other pushes.
                self._stopped = True

    def _receive_rest(self, idle: memoryview, landed: queue.SimpleQueue[slice | None]) -> None:
        try:
            while not self._assembly.complete and not self._stopped:
                landed.put(self._receive_piece(idle))
        finally:
            landed.put(None)

    def _place_first(self, buffer: memoryview) -> slice:
        """Copy the first frame's data to its place in a buffer; returns the place."""
        stop = 0
        for offset, piece in self._assembly.pieces:
            stop = offset + piece.nbytes
            buffer[offset:stop] = piece
        self._assembly.pieces.clear()
        return slice(0, stop)

    def _receive_piece(self, buffer: memoryview) -> slice:
        """Receive the next piece to its place in a buffer; returns the place."""
        try:
            place = self._messages.land(self._assembly, buffer)
        except StalledError as error:
            raise StalledError(
                f"{self._assembly.header.shard}: the push came to a standstill or nearly so ({error}) and "
                "was dropped; send it again"
            ) from None
        if place is None:
            raise MalformedError(f"{self._assembly.header.shard}: the stream ended within a push")
        self._tally.add(bytes_received=place.stop - place.start)
        return place


def _iterate_pieces(
    idle: memoryview, landed: queue.SimpleQueue[slice | None], receiving: Future[None]
) -> Iterator[tuple[int, memoryview]]:
    while (place := landed.get()) is not None:
        yield place.start, idle[place]
    # Raise the receiver's error, if any.
    receiving.result()
