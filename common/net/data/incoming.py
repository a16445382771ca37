"""Messages that come in over an open call, at either end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES, SMALL_MESSAGE_BYTES
from common.errors import MalformedError
from common.net.data.messages import PREFIX_BYTES, message_length
from common.net.http2.end import End
from common.net.tasks import cancel
from common.shards.pushes import Buffer

# Memory for a message grows with the bytes that have come, from this size on.
FIRST_BYTES = 4 << 20


class Incoming:
    """Reader of a call's messages.

    Attributes:
        under_way: whether a message has begun and is not whole.
    """

    def __init__(self, end: End) -> None:
        self._end = end
        self.under_way = False

    async def read(self, most: int = LARGEST_SIGNAL_MESSAGE_BYTES) -> memoryview | None:
        """Read the next message; None at the end of the messages.

        Raises:
            MalformedError: the message is compressed, or ends within.
            TooLargeError: the message is longer than `most` bytes.
        """
        if not await self._end.more():
            return None
        self.under_way = True
        head = bytearray(PREFIX_BYTES)
        await self._fill(memoryview(head))
        message = await self._message(message_length(head, most))
        self.under_way = False
        return message

    async def _message(self, length: int) -> memoryview:
        message, filled = _room(min(length, FIRST_BYTES)), 0
        while True:
            await self._fill(message[filled:])
            filled = message.nbytes
            if filled == length:
                return message
            wider = _room(min(length, 2 * filled))
            wider[:filled] = message
            message = wider

    async def _fill(self, target: memoryview) -> None:
        if not await self._end.into(target):
            raise MalformedError("the stream ended within a message")


def _room(nbytes: int) -> memoryview:
    # Unlike bytearray, numpy leaves the memory as it was.
    return np.empty(nbytes, np.uint8).data


class OpenRequests:
    """Messages of a call, until the peer ends them or the call is answered.

    A message is small until the handler welcomes the caller.

    Args:
        incoming: the messages.
        on_welcome: takes the incarnation of a caller that has shown a lease.
        peer: see the attribute.

    Attributes:
        incarnation: of the lease whose secret the call has shown; 0 for a caller without one.
        peer: name of the caller's certificate; empty in the clear.
    """

    def __init__(self, incoming: Incoming, on_welcome: Callable[[int], None], peer: str = "") -> None:
        self.incarnation = 0
        self.peer = peer
        self._incoming = incoming
        self._on_welcome = on_welcome
        self._most = SMALL_MESSAGE_BYTES
        self._reading: asyncio.Task[memoryview | None] | None = None
        self._closed = False

    def welcome(self, incarnation: int) -> None:
        """Note that the caller has shown a lease that stands: the next messages may be large."""
        self._most = LARGEST_SIGNAL_MESSAGE_BYTES
        self._on_welcome(incarnation)

    def __aiter__(self) -> OpenRequests:
        return self

    async def __anext__(self) -> Buffer:
        if self._closed:
            raise StopAsyncIteration
        self._reading = asyncio.ensure_future(self._incoming.read(self._most))
        try:
            message = await self._reading
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._closed and not (current and current.cancelling()):
                raise StopAsyncIteration from None
            raise
        if message is None:
            raise StopAsyncIteration
        return message

    async def close(self) -> None:
        """Read no more: a task that waits for a message finds the end of the messages."""
        self._closed = True
        if self._reading is not None:
            await cancel([self._reading])
