"""A push on its way in: what has come of it is applied while the rest is still coming."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from common.assembly import Assembly
from common.messages import Frame, Header, Operation, PushReply
from common.wire.payloads import CHUNK_BYTES

if TYPE_CHECKING:
    from master.service import Master

# A push of more than this is applied in a thread, so that the event loop goes on. Of a smaller one no reader
# holds a buffer while it waits for the network: it never has to be waited for.
INLINE_BYTES = CHUNK_BYTES
# How long others wait for a push to their shard that is still coming; then it is applied when it is whole.
PUSHER_SECONDS = 2.0

Piece = tuple[int, memoryview]


class _TooSlowError(Exception):
    """What is left of a push did not come in time, or never will."""


class _Pieces:
    """Pieces from the event loop to the thread that applies them."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._whole = False

    def put(self, pieces: list[Piece]) -> None:
        """Some more."""
        for piece in pieces:
            self._queue.put(piece)

    def end(self, whole: bool) -> None:
        """There are no more."""
        self._whole = whole
        self._queue.put(None)

    def __iter__(self) -> Iterator[Piece]:
        deadline = time.monotonic() + PUSHER_SECONDS
        while True:
            try:
                piece = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise _TooSlowError from None
            if piece is None:
                break
            yield piece
        if not self._whole:
            raise _TooSlowError


class Incoming:
    """One push.

    A large one is applied to the shard's idle buffer as it comes: only the commit makes it true. Its pieces
    are kept until then: a slow sender loses the buffer to others, and all is applied once it is whole.

    Args:
        master: whose shard it is for.
        frame: its first frame.

    Raises:
        LayerwiseError: it cannot be admitted.
    """

    def __init__(self, master: Master, frame: Frame) -> None:
        self._master = master
        self._assembly = Assembly(frame, master.admit(frame.header))
        self._pieces = _Pieces()
        self._early: asyncio.Future[PushReply] | None = None

    @property
    def header(self) -> Header:
        """What it is."""
        return self._assembly.header

    @property
    def complete(self) -> bool:
        """Whether every byte has come."""
        return self._assembly.complete

    def begin(self) -> None:
        """Apply it as it comes, if it is large. A creation takes room on the disk and has to be whole."""
        header = self._assembly.header
        if header.table.nbytes > INLINE_BYTES and header.operation is not Operation.CREATE:
            self._pieces.put(self._assembly.pieces)
            self._early = asyncio.ensure_future(asyncio.to_thread(self._master.push, header, self._pieces))
            self._early.add_done_callback(_seen)

    def add(self, frame: Frame) -> None:
        """Take the next frame.

        Raises:
            LayerwiseError: it is not the one that comes next, or what came before it was refused.
        """
        self._assembly.add(frame)
        if self._early is None:
            return
        self._pieces.put(self._assembly.pieces[-1:])
        if self._early.done() and not isinstance(self._early.exception(), _TooSlowError):
            self._early.result()

    async def applied(self) -> PushReply:
        """The outcome of a push that is complete."""
        if self._early is not None:
            self._pieces.end(whole=True)
            try:
                return await self._early
            except _TooSlowError:
                pass
        header, pieces = self._assembly.header, self._assembly.pieces
        # A creation takes room on the disk, whatever its size, and waits for others that do.
        if header.table.nbytes <= INLINE_BYTES and header.operation is not Operation.CREATE:
            return self._master.push(header, pieces)
        return await asyncio.to_thread(self._master.push, header, pieces)

    def abandon(self) -> None:
        """Its sender is gone, or broke a rule; nothing of it counts, unless it was applied before."""
        if self._early is not None:
            self._pieces.end(whole=False)


def _seen(future: asyncio.Future[PushReply]) -> None:
    """Asyncio complains of exceptions that nobody has looked at."""
    if not future.cancelled():
        future.exception()
