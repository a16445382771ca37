"""Calls that stay open and go both ways, on an event loop: for activations and gradients.

A message may be as large as gRPC's (`LARGEST_SIGNAL_MESSAGE_BYTES`), and leaves from the memory that holds
its parts. A connection has one such call, and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from common.credentials import NOBODY, Credentials
from common.errors import (
    LayerwiseError,
    MalformedError,
    RefusedError,
    StalledError,
    TooLargeError,
    UnreachableError,
)
from common.net.data.incoming import Incoming, OpenRequests
from common.net.data.messages import (
    ANSWER_HEADERS,
    call_headers,
    is_over,
    prefix,
    prepare,
    status_headers,
)
from common.net.http2.end import End
from common.net.http2.frames import BrokenError, Code, Headers, ProtocolError, ResetError
from common.net.http2.loop_pipe import LoopPipe
from common.net.http2.pace import Pace
from common.net.http2.pipe import SLOWEST_BYTES
from common.net.http2.tls import Tls, TlsLoopPipe, wrap
from common.net.listening import join_address
from common.net.tasks import cancel
from common.shards.pushes import Buffer
from common.sparing import SparingLog
from common.wire.methods import Method

log = logging.getLogger("layerwise.data")
# Of peers that break the rules.
_closed = SparingLog(log)

CONNECT_SECONDS = 10.0
# A peer whose call has ended is read from for so long, until the peer has closed.
LINGER_SECONDS = 5.0
# A silent peer is pinged so often, and given up after so long without a byte.
PING_SECONDS, SILENT_SECONDS = 10.0, 40.0
# A message that has begun must go on; its rate is measured over so long.
MESSAGE_SECONDS = 30.0

# Parts of a message, one behind the other.
Parts = tuple[Buffer, ...]
# Yields the answers of a call. The requests must be read meanwhile: news of the peer's window lie behind
# them.
Handler = Callable[[OpenRequests], AsyncGenerator[Parts, None]]


class Stream:
    """Calling end of an open call; a task may read while a second task writes.

    Attributes:
        incoming: reads the messages.
        peer: name of the server's certificate; empty in the clear.

    Raises (every method):
        LayerwiseError: the error that the peer's status stands for.
        UnreachableError: the connection broke.
    """

    def __init__(self, end: End, method: Method[Any, Any]) -> None:
        self._end = end
        self.incoming = Incoming(end)
        self.peer = end.pipe.peer
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
            message = await self.incoming.read()
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
    shown: Credentials = NOBODY,
    tls: Tls | None = None,
) -> AsyncIterator[Stream]:
    """Open a call over a connection of its own; tasks that read or write must end before the context does.

    Args:
        host: name or address of the server.
        port: of its data plane.
        method: to call.
        shown: credentials of the caller.
        tls: certificates and trust; None: in the clear.

    Raises:
        UnreachableError: no server answers.
        RefusedError: the server's certificate, or this side's, is refused.
    """
    pipe = await _connected_pipe(host.strip("[]"), port, tls)
    try:
        end = End(pipe, serves=False)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await end.open()
        except TimeoutError:
            raise UnreachableError(
                f"{join_address(host, port)}: answers, but does not speak HTTP/2"
            ) from None
        except RefusedError as error:
            raise RefusedError(f"{join_address(host, port)}: {error}") from None
        await end.request(call_headers(method, shown))
        stream = Stream(end, method)
        async with _kept_alive(end, pipe, stream.incoming):
            yield stream
    finally:
        await pipe.close()


async def _connected_pipe(host: str, port: int, tls: Tls | None) -> LoopPipe:
    stream = prepare(await _connected(host, port))
    return LoopPipe(stream) if tls is None else TlsLoopPipe(wrap(stream, tls, host), tls.check)


@asynccontextmanager
async def _kept_alive(end: End, pipe: LoopPipe, incoming: Incoming) -> AsyncIterator[None]:
    """Ping a silent peer within the context.

    The connection of a peer that stays silent, or that stops within a message, is ended.
    """
    pinging = asyncio.ensure_future(_ping(end, pipe, incoming))
    try:
        yield
    finally:
        await cancel([pinging])


async def _ping(end: End, pipe: LoopPipe, incoming: Incoming) -> None:
    taken, taken_at = 0, 0.0
    pace = Pace(MESSAGE_SECONDS)
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
        if pipe.certificate is not None and pipe.certificate.ends < time.time():
            log.info("a stream was closed: the certificate of its peer has ended")
            pipe.interrupt()
            return
        try:
            if incoming.under_way:
                pace.take(pipe.received - pace.nbytes)
            else:
                pace = Pace(MESSAGE_SECONDS)
                pace.nbytes = pipe.received
            end.ping()
        except (ProtocolError, StalledError) as error:
            _closed.say(logging.INFO, "a stream was closed: %s", error)
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
    raise UnreachableError(f"{join_address(host, port)}: does not answer{why}")


async def answer(
    end: End,
    handler: Handler,
    on_error: Callable[[LayerwiseError], None],
    admit: Callable[[], int],
    on_welcome: Callable[[int], None] = lambda _: None,
) -> None:
    """Answer the call that a connection has begun, and end call and connection.

    Args:
        end: connection that was handed over to the running event loop.
        handler: yields the answers.
        on_error: takes the error that ends the call, unless the peer is gone.
        admit: returns the incarnation of the caller's lease, 0 for a caller without one; raises
            LayerwiseError to refuse the caller before the handler runs.
        on_welcome: takes the incarnation of a caller that has shown a lease.
    """
    pipe = end.pipe
    assert isinstance(pipe, LoopPipe)
    try:
        await end.send_headers(ANSWER_HEADERS)
        incoming = Incoming(end)
        async with _kept_alive(end, pipe, incoming):
            status = await _status(
                end, handler, OpenRequests(incoming, on_welcome, pipe.peer), on_error, admit
            )
        await end.send_headers(status, last=True)
        # The next call has to come over another connection.
        await pipe.leave(end.goaway(Code.NO_ERROR), LINGER_SECONDS)
    except ProtocolError as error:
        _closed.say(logging.INFO, "a stream was closed: %s", error)
        await pipe.leave(end.goaway(error.code, str(error)), LINGER_SECONDS)
    except LayerwiseError as error:
        log.debug("a stream ended: %s", error)
    finally:
        await pipe.close()


async def _status(
    end: End,
    handler: Handler,
    requests: OpenRequests,
    on_error: Callable[[LayerwiseError], None],
    admit: Callable[[], int],
) -> Headers:
    """Send all answers, and return the trailers.

    Raises:
        BrokenError, ResetError: the peer is gone.
    """
    try:
        requests.incarnation = admit()
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


async def _send(end: End, parts: Parts) -> None:
    await end.send(prefix(parts), *parts)
