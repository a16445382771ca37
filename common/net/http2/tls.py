"""Pipes over TLS: one non-blocking `ssl.SSLSocket`, polled by a thread or watched by an event loop.

The connection moves from a thread to an event loop with its session. Peers agree on HTTP/2 by ALPN.
A connection without a close_notify at its end reads as ended: gRPC marks the end of each call.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import partial

from common.errors import RefusedError, StalledError
from common.net.http2 import pipe
from common.net.http2.frames import BrokenError
from common.net.http2.loop_pipe import LoopPipe, wake
from common.net.http2.pipe import Pipe, broken, cut, run_sync
from common.net.http2.thread_pipe import ThreadPipe
from common.shards.pushes import Buffer

ALPN = "h2"
# Bytes of a TLS record: parts smaller than one share it.
RECORD_BYTES = 16 << 10


def wrap(stream: socket.socket, context: ssl.SSLContext, host: str | None) -> ssl.SSLSocket:
    """Wrap a connected socket; the handshake comes with the pipe.

    Args:
        stream: closed where wrapping fails.
        context: certificates and trust; the ALPN protocols are set here.
        host: name that the server's certificate must have; None at the server's end.

    Raises:
        BrokenError: the peer is gone.
    """
    context.set_alpn_protocols([ALPN])
    try:
        return context.wrap_socket(
            stream, server_side=host is None, server_hostname=host, do_handshake_on_connect=False
        )
    except OSError as error:
        stream.close()
        raise broken(error) from None


class _Tls(Pipe):
    """Handshake and records of TLS over a socket that never blocks."""

    _socket: ssl.SSLSocket

    async def handshake(self) -> None:
        """Agree on keys and on HTTP/2.

        Raises:
            RefusedError: the certificate of the peer is not to be trusted.
            BrokenError: the peer does not speak TLS, or not HTTP/2 over it.
            StalledError: the peer does not go on with the handshake.
        """
        try:
            await self._attempt(self._socket.do_handshake, self._seconds_left)
        except ssl.SSLCertVerificationError as error:
            raise RefusedError(f"the certificate of a peer is not trusted: {error.verify_message}") from None
        except TimeoutError:
            raise StalledError("a peer did not go on with the TLS handshake") from None
        except OSError as error:
            raise broken(error) from None
        if self._socket.selected_alpn_protocol() != ALPN:
            raise BrokenError("a peer does not offer HTTP/2 over TLS (ALPN h2)")

    async def _attempt(
        self,
        operation: Callable[[], int | None],
        patience: Callable[[], float | None],
        goes_on: Callable[[], bool] = lambda: False,
    ) -> int:
        """Repeat an operation until neither direction of the socket holds the operation up.

        Raises:
            TimeoutError: the socket was not ready for `patience()` seconds, and `goes_on()` is false.
        """
        while True:
            try:
                return operation() or 0
            except ssl.SSLWantReadError:
                event = select.POLLIN
            except ssl.SSLWantWriteError:
                event = select.POLLOUT
            try:
                await self._ready(event, patience())
            except TimeoutError:
                if not goes_on():
                    raise

    async def _send_all(self, views: list[memoryview]) -> None:
        # Heads share the first record with the beginning of their payload.
        first, rest = cut(views, RECORD_BYTES)
        for view in (memoryview(b"".join(first)), *rest):
            sent = 0
            while sent < view.nbytes:
                send = partial(self._socket.send, view[sent:])
                sent += await self._attempt(send, lambda: pipe.WRITE_SECONDS, self.keeps_up)

    def readable(self) -> bool:
        """Whether payload has arrived: bytes of the socket alone may be a record without any."""
        if self._stop == self._start:
            try:
                self._start, self._stop = 0, self._socket.recv_into(self._ahead)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except OSError as error:
                raise broken(error) from None
        # The end of the connection is to be read, too.
        return True

    @abstractmethod
    def _seconds_left(self) -> float | None: ...

    @abstractmethod
    async def _ready(self, event: int, seconds: float | None) -> None: ...


class TlsThreadPipe(_Tls, ThreadPipe):
    """TLS connection of a thread."""

    _socket: ssl.SSLSocket

    def _set_up(self) -> None:
        self._socket.setblocking(False)

    def _seconds_left(self) -> float | None:
        if self._pace is not None:
            return self._pace.seconds
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    async def _ready(self, event: int, seconds: float | None) -> None:
        waiting = select.poll()
        waiting.register(self._socket, event)
        if not waiting.poll(None if seconds is None else 1000 * seconds):
            raise TimeoutError

    def _receive_some(self, target: memoryview, *, whole: bool) -> int | None:  # noqa: ARG002 - by record
        try:
            if self._deadline is not None and time.monotonic() > self._deadline:
                return None
            return run_sync(self._attempt(lambda: self._socket.recv_into(target), self._seconds_left))
        except TimeoutError:
            return None
        except OSError as error:
            raise broken(error) from None

    def offer(self, views: list[memoryview]) -> list[memoryview]:
        """Leave all: OpenSSL may hold a part of a record back, and asks for the bytes again."""
        return views

    def _on_loop(self, ahead: Buffer) -> LoopPipe:
        return TlsLoopPipe(self._socket, ahead)


class TlsLoopPipe(_Tls, LoopPipe):
    """TLS connection of an event loop."""

    _socket: ssl.SSLSocket

    def __init__(self, stream: ssl.SSLSocket, ahead: Buffer = b"") -> None:
        super().__init__(stream, ahead)
        self._waiting: dict[int, list[asyncio.Future[None]]] = {select.POLLIN: [], select.POLLOUT: []}

    def _seconds_left(self) -> float | None:
        return None

    async def _ready(self, event: int, seconds: float | None) -> None:
        # A write may wait for the arrival of a record, and a read for the departure of one.
        waiting, ready = self._waiting[event], self._loop.create_future()
        waiting.append(ready)
        watch = self._loop.add_reader if event == select.POLLIN else self._loop.add_writer
        watch(self._socket, _wake_all, waiting)
        try:
            async with asyncio.timeout(seconds):
                await ready
        finally:
            waiting.remove(ready)
            if not waiting:
                ignore = self._loop.remove_reader if event == select.POLLIN else self._loop.remove_writer
                ignore(self._socket)

    async def _receive_some(self, target: memoryview, *, whole: bool) -> int:  # noqa: ARG002 - as above
        return await self._attempt(lambda: self._socket.recv_into(target), self._seconds_left)


def _wake_all(waiting: list[asyncio.Future[None]]) -> None:
    for each in waiting:
        wake(each)
