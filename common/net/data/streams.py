"""Calls that stay open and go both ways, on an event loop: for activations and gradients.

A message may be as large as gRPC's (`LARGEST_SIGNAL_MESSAGE_BYTES`), and leaves from the memory that holds
its parts. A connection has one such call, and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np

from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES
from common.errors import LayerwiseError, MalformedError, TooLargeError, UnreachableError
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
from common.net.http2.end import End
from common.net.http2.frames import BrokenError, Code, Headers, ProtocolError, ResetError
from common.net.http2.loop_pipe import LoopPipe
from common.net.http2.pipe import SLOWEST_BYTES
from common.net.http2.tls import TlsLoopPipe, wrap
from common.net.tasks import cancel
from common.shards.pushes import Buffer
from common.wire.methods import Method

log = logging.getLogger("layerwise.data")

CONNECT_SECONDS = 10.0
# A peer whose call has ended is read from for so long, until the peer has closed.
LINGER_SECONDS = 5.0
# Memory for a message grows with the bytes that have come, from this size on.
FIRST_BYTES = 4 << 20
# A silent peer is pinged so often, and given up after so long without a byte.
PING_SECONDS, SILENT_SECONDS = 10.0, 40.0

# Parts of a message, one behind the other.
Parts = tuple[Buffer, ...]
# Yields the answers of a call. The requests must be read meanwhile: news of the peer's window lie behind
# them.
Handler = Callable[[AsyncIterator[Buffer]], AsyncGenerator[Parts, None]]


class Stream:
    """Calling end of an open call; a task may read while a second task writes.

    Raises (every method):
        LayerwiseError: the error that the peer's status stands for.
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
        """Read the next message; None once the peer has ended the call."""
        if not self._answered:
            self._answered = True
            if is_over(await self._end.headers(), self._method):
                return None
        try:
            message = await _read(self._end)
        except (MalformedError, TooLargeError) as error:
            # Unlike a status, no word of the peer about this side's messages.
            raise UnreachableError(f"the peer broke off: {error}") from None
        if message is None:
            while not is_over(await self._end.headers(), self._method):
                pass
        return message


@asynccontextmanager
async def opened(
    host: str,
    port: int,
    method: Method[Any, Any],
    *,
    incarnation: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Stream]:
    """Open a call over a connection of its own; tasks that read or write must end before the context does.

    Args:
        host: name or address of the server.
        port: of its data plane.
        method: to call.
        incarnation: of the caller's lease; 0 without a lease.
        tls: certificates and trust; None: in the clear.

    Raises:
        UnreachableError: no server answers.
    """
    pipe = await _connected_pipe(host.strip("[]"), port, tls)
    try:
        end = End(pipe, serves=False)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await end.open()
        except TimeoutError:
            raise UnreachableError(f"{host}:{port}: answers, but does not speak HTTP/2") from None
        await end.request(call_headers(method, incarnation))
        async with _kept_alive(end, pipe):
            yield Stream(end, method)
    finally:
        await pipe.close()


async def _connected_pipe(host: str, port: int, tls: ssl.SSLContext | None) -> LoopPipe:
    stream = prepare(await _connected(host, port))
    return LoopPipe(stream) if tls is None else TlsLoopPipe(wrap(stream, tls, host))


@asynccontextmanager
async def _kept_alive(end: End, pipe: LoopPipe) -> AsyncIterator[None]:
    """Ping a silent peer within the context, and end the connection of a peer that stays silent."""
    pinging = asyncio.ensure_future(_ping(end, pipe))
    try:
        yield
    finally:
        await cancel([pinging])


async def _ping(end: End, pipe: LoopPipe) -> None:
    taken, taken_at = 0, 0.0
    while True:
        await asyncio.sleep(PING_SECONDS)
        now, taken_before, taken = asyncio.get_running_loop().time(), taken, pipe.acknowledged()
        # A link may be busy with a long message to the peer, behind which the answer to a ping waits.
        if taken - taken_before >= SLOWEST_BYTES * PING_SECONDS:
            taken_at = now
        silence = now - max(taken_at, pipe.received_at)
        if silence > SILENT_SECONDS:
            log.info("a stream was closed: its peer has been silent for %.0f s", silence)
            pipe.interrupt()
            return
        try:
            end.ping()
        except ProtocolError:
            pipe.interrupt()
            return


async def _connected(host: str, port: int) -> socket.socket:
    why = ""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            loop = asyncio.get_running_loop()
            # A name may have several addresses, and the server may listen on one of them.
            for family, _, _, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
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


async def answer(
    end: End,
    handler: Handler,
    on_error: Callable[[LayerwiseError], None],
    admit: Callable[[], None],
) -> None:
    """Answer the call that a connection has begun, and end call and connection.

    Args:
        end: connection that was handed over to the running event loop.
        handler: yields the answers.
        on_error: takes the error that ends the call, unless the peer is gone.
        admit: raises LayerwiseError to refuse the caller before the handler runs.
    """
    pipe = end.pipe
    assert isinstance(pipe, LoopPipe)
    try:
        await end.send_headers(ANSWER_HEADERS)
        async with _kept_alive(end, pipe):
            status = await _status(end, handler, on_error, admit)
        await end.send_headers(status, last=True)
        # The next call has to come over another connection.
        await pipe.leave(end.goaway(Code.NO_ERROR), LINGER_SECONDS)
    except ProtocolError as error:
        log.info("a stream was closed: %s", error)
        await pipe.leave(end.goaway(error.code, str(error)), LINGER_SECONDS)
    except LayerwiseError as error:
        log.debug("a stream ended: %s", error)
    finally:
        await pipe.close()


async def _status(
    end: End,
    handler: Handler,
    on_error: Callable[[LayerwiseError], None],
    admit: Callable[[], None],
) -> Headers:
    """Send all answers, and return the trailers.

    Raises:
        BrokenError, ResetError: the peer is gone.
    """
    requests = _Requests(end)
    try:
        admit()
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
    """Messages of a call, until the peer ends them or the call is answered."""

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
        """Read no more: a task that waits for a message finds the end of the messages."""
        self._closed = True
        if self._reading is not None:
            await cancel([self._reading])


async def _send(end: End, parts: Parts) -> None:
    await end.send(prefix(parts), *parts)


async def _read(end: End) -> memoryview | None:
    if not await end.more():
        return None
    head = bytearray(PREFIX_BYTES)
    await _fill(end, memoryview(head))
    length = message_length(head, LARGEST_SIGNAL_MESSAGE_BYTES)
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
    # Unlike bytearray, numpy leaves the memory as it was.
    return np.empty(nbytes, np.uint8).data


async def _fill(end: End, target: memoryview) -> None:
    if not await end.into(target):
        raise MalformedError("the stream ended within a message")
