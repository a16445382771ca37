"""Calls that stay open and go both ways, on an event loop: for activations and gradients.

A message here may be as large as gRPC's (`rpc.LARGEST_MESSAGE_BYTES`), and is sent in parts, from where they
lie. A connection has one such call, and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np

from common.errors import LayerwiseError, MalformedError, UnreachableError
from common.net.control import LARGEST_MESSAGE_BYTES
from common.net.data.messages import (
    ANSWER_HEADERS,
    PREFIX_BYTES,
    call_headers,
    is_over,
    message_length,
    prefix,
    prepare,
    status_headers,
)
from common.net.http2.connection import End
from common.net.http2.frames import BrokenError, Code, Headers, ProtocolError, ResetError
from common.net.http2.pipe import LoopPipe
from common.shards.pushes import Buffer
from common.wire.methods import Method

log = logging.getLogger("layerwise.bulk")

CONNECT_SECONDS = 10.0
# How long a peer whose call has ended is heard out.
LINGER_SECONDS = 5.0
# Memory for a message is taken as it comes, from here on.
FIRST_BYTES = 4 << 20

# A message, in parts that follow each other.
Parts = tuple[Buffer, ...]
# The answers to what comes on a call. That is to be read meanwhile: news of the peer's window come behind it.
Handler = Callable[[AsyncIterator[Buffer]], AsyncGenerator[Parts, None]]


class Stream:
    """The calling end of an open call; one task may read while another one writes.

    Raises (every method):
        LayerwiseError: what the peer's status stands for.
        UnreachableError: the connection broke.
    """

    def __init__(self, end: End, method: Method[Any, Any]) -> None:
        self._end = end
        self._method = method
        self._answered = False

    async def write(self, *parts: Buffer) -> None:
        """Send a message."""
        await _send(self._end, parts)

    async def read(self) -> Buffer | None:
        """The next message; None once the peer has ended the call."""
        if not self._answered:
            self._answered = True
            if is_over(await self._end.headers(), self._method):
                return None
        message = await _read(self._end)
        if message is None:
            while not is_over(await self._end.headers(), self._method):
                pass
        return message


@asynccontextmanager
async def opened(host: str, port: int, method: Method[Any, Any]) -> AsyncIterator[Stream]:
    """A call over a connection of its own. Whatever reads or writes it has to be over before it is left.

    Raises:
        UnreachableError: nobody answers there.
    """
    pipe = LoopPipe(prepare(await _connected(host, port)))
    try:
        end = End(pipe, serves=False)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await end.open()
        except TimeoutError:
            raise UnreachableError(f"{host}:{port}: does not say how it wants to be spoken to") from None
        await end.request(call_headers(method))
        yield Stream(end, method)
    finally:
        await pipe.ended()


async def _connected(host: str, port: int) -> socket.socket:
    why = ""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            loop = asyncio.get_running_loop()
            # A name may stand for several addresses, of which one is listened on.
            for family, _, _, _, address in await loop.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM
            ):
                stream = socket.socket(family, socket.SOCK_STREAM)
                stream.setblocking(False)
                try:
                    await loop.sock_connect(stream, address)
                except OSError as error:
                    stream.close()
                    why = f" ({error.strerror or error})"
                except BaseException:
                    stream.close()
                    raise
                else:
                    return stream
    except TimeoutError:
        why = ""
    except OSError as error:
        why = f" ({error.strerror or error})"
    raise UnreachableError(f"{host}:{port}: does not answer{why}")


async def answer(end: End, handler: Handler, on_error: Callable[[LayerwiseError], None]) -> None:
    """Answer the call that a connection has begun, and end both.

    Args:
        end: handed over to the running event loop.
        handler: makes the answers.
        on_error: told of the error that ends the call, unless it is the peer who is gone.
    """
    assert isinstance(end.pipe, LoopPipe)
    try:
        await end.send_headers(ANSWER_HEADERS)
        await end.send_headers(await _status(end, handler, on_error), last=True)
        # The next call will have to come over another connection.
        await end.pipe.leave(end.goaway(Code.NO_ERROR), LINGER_SECONDS)
    except ProtocolError as error:
        log.info("a stream was closed: %s", error)
        await end.pipe.leave(end.goaway(error.code, str(error)), LINGER_SECONDS)
    except LayerwiseError as error:
        log.debug("a stream ended: %s", error)
    finally:
        await end.pipe.ended()


async def _status(end: End, handler: Handler, on_error: Callable[[LayerwiseError], None]) -> Headers:
    """Send all answers; the status after them.

    Raises:
        BrokenError, ResetError: there is nobody to answer any more.
    """
    requests = _Requests(end)
    try:
        async with aclosing(handler(requests)) as answers:
            async for parts in answers:
                await _send(end, parts)
    except (BrokenError, ResetError):
        raise
    except LayerwiseError as error:
        on_error(error)
        return status_headers(error.status, str(error))
    finally:
        await requests.close()
    return status_headers("OK")


class _Requests:
    """What comes on a call, message by message, until that ends or the call is answered."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._reading: asyncio.Task[memoryview | None] | None = None
        self._closed = False

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Buffer:
        if self._closed:
            raise StopAsyncIteration
        self._reading = asyncio.ensure_future(_read(self._end))
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
        """Nothing more is read; who waits for it is told that there is no more."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


async def _send(end: End, parts: Parts) -> None:
    await end.send(prefix(parts), *parts)


async def _read(end: End) -> memoryview | None:
    if not await end.more():
        return None
    head = bytearray(PREFIX_BYTES)
    await _fill(end, memoryview(head))
    length = message_length(head, LARGEST_MESSAGE_BYTES)
    message, filled = _room(min(length, FIRST_BYTES)), 0
    while True:
        await _fill(end, message[filled:])
        filled = message.nbytes
        if filled == length:
            return message
        wider = _room(min(length, 2 * filled))
        wider[:filled] = message
        message = wider


def _room(nbytes: int) -> memoryview:
    # Not zeroed, as bytearray would be.
    return np.empty(nbytes, np.uint8).data


async def _fill(end: End, target: memoryview) -> None:
    if not await end.into(target):
        raise MalformedError("the stream ended within a message")
