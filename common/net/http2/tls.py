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
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from common.credentials import Certificate
from common.errors import LayerwiseError, StalledError
from common.net.http2 import pipe
from common.net.http2.frames import BrokenError, Code, goaway
from common.net.http2.handshakes import TLS_ALONE, certificate_of, distrust, failure, is_clear
from common.net.http2.loop_pipe import LoopPipe, wake
from common.net.http2.pipe import Pipe, broken, cut, run_sync
from common.net.http2.thread_pipe import ThreadPipe
from common.shards.pushes import Buffer

ALPN = "h2"
# Bytes of a TLS record: parts smaller than one share it.
RECORD_BYTES = 16 << 10
# After a failed handshake the peer has so long, in so many reads, to close the connection.
ALERT_SECONDS, ALERT_READS = 0.5, 16


# Answer in the clear to a peer that speaks in the clear. Without SETTINGS before, gRPC takes the connection
# for failed; after SETTINGS its client would connect again and again, without a pause, up to the deadline.
_TLS_ALONE = goaway(0, Code.INADEQUATE_SECURITY, f"this port {TLS_ALONE}")
# Takes the certificate that a peer has proved to hold, if any; raises RefusedError to end the connection.
Check = Callable[[Certificate | None], object]


@dataclass(frozen=True)
class Tls:
    """TLS of one end of connections.

    Attributes:
        context: returns certificates and trust for the next connection, with the ALPN protocols: handshakes
            of other threads read those without a lock.
        check: takes a peer's certificate after the handshake.
    """

    context: Callable[[], ssl.SSLContext]
    check: Check = lambda _: None


def wrap(stream: socket.socket, tls: Tls, host: str | None) -> ssl.SSLSocket:
    """Wrap a connected socket; the handshake comes with the pipe.

    Args:
        stream: closed where wrapping fails.
        tls: certificates and trust.
        host: name or address of the server, for contexts that check host names; None at the server's end.

    Raises:
        BrokenError: the peer is gone.
    """
    try:
        return tls.context().wrap_socket(
            stream, server_side=host is None, server_hostname=host, do_handshake_on_connect=False
        )
    except OSError as error:
        stream.close()
        raise broken(error) from None


class _Tls(Pipe):
    """Handshake and records of TLS over a socket that never blocks."""

    _socket: ssl.SSLSocket
    _check: Check

    async def handshake(self) -> None:
        """Agree on keys and on HTTP/2, and check the peer.

        Raises:
            RefusedError: the peer speaks no TLS, or one end does not trust the other's certificate.
            BrokenError: the peer does not speak HTTP/2 over TLS.
            StalledError: the peer does not go on with the handshake.
        """
        try:
            await self._attempt(self._socket.do_handshake, self._seconds_left)
        except TimeoutError:
            raise StalledError("a peer did not go on with the TLS handshake") from None
        except OSError as error:
            if self._socket.server_side and is_clear(error):
                # OpenSSL sends no alert to a peer that cannot read one.
                with suppress(OSError):
                    socket.socket.send(self._socket, _TLS_ALONE)
            self._let_alert_arrive()
            raise failure(error) or broken(error) from None
        if self._socket.selected_alpn_protocol() != ALPN:
            raise BrokenError("a peer does not offer HTTP/2 over TLS (ALPN h2)")
        self.certificate = certificate_of(self._socket)
        self._check(self.certificate)

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
                raise self._lost(error) from None
        # The end of the connection is to be read, too.
        return True

    def _lost(self, error: OSError) -> LayerwiseError:
        """Return the error for a failed read.

        To a caller the first answer may be that the port does not trust it: TLS 1.3 has no earlier place.
        """
        return (None if self._socket.server_side else distrust(error)) or broken(error)

    def _let_alert_arrive(self) -> None:
        """Give the peer time to read why the handshake has failed."""
        return

    @abstractmethod
    def _seconds_left(self) -> float | None: ...

    @abstractmethod
    async def _ready(self, event: int, seconds: float | None) -> None: ...


class TlsThreadPipe(_Tls, ThreadPipe):
    """TLS connection of a thread."""

    _socket: ssl.SSLSocket

    def __init__(self, stream: ssl.SSLSocket, check: Check) -> None:
        super().__init__(stream)
        self._check = check

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
            raise self._lost(error) from None

    def _let_alert_arrive(self) -> None:
        # Unread bytes in a socket that is closed would take the alert back.
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            for _ in range(ALERT_READS):
                if not waiting.poll(1000 * ALERT_SECONDS):
                    return
                if not socket.socket.recv(self._socket, RECORD_BYTES):
                    return

    def offer(self, views: list[memoryview]) -> list[memoryview]:
        """Leave all: OpenSSL may hold a part of a record back, and asks for the bytes again."""
        return views

    def _on_loop(self, ahead: Buffer) -> LoopPipe:
        successor = TlsLoopPipe(self._socket, self._check, ahead)
        successor.certificate = self.certificate
        return successor


class TlsLoopPipe(_Tls, LoopPipe):
    """TLS connection of an event loop."""

    _socket: ssl.SSLSocket

    def __init__(self, stream: ssl.SSLSocket, check: Check, ahead: Buffer = b"") -> None:
        super().__init__(stream, ahead)
        self._check = check
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
        try:
            return await self._attempt(lambda: self._socket.recv_into(target), self._seconds_left)
        except OSError as error:
            self._lose()
            raise self._lost(error) from None


def _wake_all(waiting: list[asyncio.Future[None]]) -> None:
    for each in waiting:
        wake(each)
