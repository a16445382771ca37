"""Threads behind the calls of `benchmarks.flight_server`: one applies a push, one sends a boundary stream."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from benchmarks.flight_batches import frame_of
from common.errors import MalformedError, StalledError
from common.shards.assembly import Assembly
from common.shards.pushes import Frame, Operation, PushReply
from master.parameters import ParameterService
from master.semaphore import FairSemaphore
from master.servicers.parameters import PUSHER_SECONDS
from master.store.store import Pieces

# Pieces that wait for the thread that applies them; messages that wait for a stream's sender.
PIECES_AHEAD, MESSAGES_AHEAD = 8, 64


class IncomingPush:
    """Push under way: the handler's thread receives, a second thread applies a large push with a deadline.

    Without the second thread a sender that stands still would hold the shard for ever, since nothing
    interrupts a read.
    """

    def __init__(self, service: ParameterService, reader: Any, first: Frame) -> None:
        self._service = service
        self._reader = reader
        self._assembly = Assembly(first, self._service.admit(first.header))
        self._header = self._assembly.header
        self._landed: queue.Queue[tuple[int, memoryview] | None] = queue.Queue(PIECES_AHEAD)

    def apply(self, applier: ThreadPoolExecutor, permits: FairSemaphore) -> PushReply:
        """Receive the rest, and apply."""
        if self._assembly.complete:
            return self._service.push(self._header, self._assembly.pieces)
        if self._header.operation is Operation.CREATE:
            with permits.hold():
                while not self._assembly.complete:
                    self._receive()
                return self._service.push(self._header, self._assembly.pieces)
        reply = applier.submit(self._service.land, self._header, self._source)
        try:
            self._hand_over(reply)
            while not self._assembly.complete:
                self._receive()
                self._hand_over(reply)
        finally:
            self._put(None, reply)
        return reply.result()

    def _receive(self) -> None:
        try:
            chunk = self._reader.read_chunk()
        except StopIteration:
            raise MalformedError(f"{self._header.shard}: the stream ended within a push") from None
        self._assembly.add(frame_of(chunk))

    def _hand_over(self, reply: Future[PushReply]) -> None:
        for piece in self._assembly.pieces:
            self._put(piece, reply)
        self._assembly.pieces.clear()

    def _put(self, piece: tuple[int, memoryview] | None, reply: Future[PushReply]) -> None:
        # The rest of a push that has its answer already (a retry, a refusal) is received and dropped.
        while not reply.done():
            with suppress(queue.Full):
                self._landed.put(piece, timeout=0.1)
                return

    @contextmanager
    def _source(self, idle: memoryview) -> Iterator[Pieces]:
        yield self._iterate_pieces(idle.nbytes)

    def _iterate_pieces(self, nbytes: int) -> Iterator[tuple[int, memoryview]]:
        until, received = time.monotonic() + PUSHER_SECONDS, 0
        while received < nbytes:
            try:
                piece = self._landed.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise StalledError(f"{self._header.shard}: the push came to a standstill") from None
            if piece is None:
                raise MalformedError(f"{self._header.shard}: the stream ended within a push")
            received += piece[1].nbytes
            yield piece


class Sender:
    """Sender of a boundary stream: a thread and a bounded queue."""

    def __init__(self, writer: Any) -> None:
        self._messages: queue.Queue[Any] = queue.Queue(MESSAGES_AHEAD)
        self._writer = writer
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def put(self, chunk: Any) -> None:
        """Queue a received message, or drop the message if the queue is full."""
        with suppress(queue.Full):
            self._messages.put_nowait(chunk)

    def close(self) -> None:
        """End the thread unless a write is blocked."""
        self.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        with suppress(pa.ArrowException, OSError):
            while (chunk := self._messages.get()) is not None:
                if chunk.data is None:
                    self._writer.write_metadata(chunk.app_metadata)
                else:
                    self._writer.write_with_metadata(chunk.data, chunk.app_metadata)
