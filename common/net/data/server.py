"""Answering end of the data plane: a thread for each connection answers calls in sequence.

Calls that stay open belong to an event loop: the thread hands over its connection and waits for their end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from common.credentials import Admit, credentials_of
from common.errors import LayerwiseError, RefusedError, StalledError, UnreachableError
from common.lifecycle import file_limit
from common.net.data import streams
from common.net.data.callers import OPENING_SECONDS, Caller, Requests
from common.net.data.messages import (
    ANSWER_HEADERS,
    CONTENT_TYPE,
    prepare,
    status_headers,
)
from common.net.data.places import Bounds, Places, neighbourhood
from common.net.http2.connection import Connection
from common.net.http2.frames import BrokenError, Code, Headers, ProtocolError, ResetError
from common.net.http2.pipe import WRITE_SECONDS
from common.net.http2.tls import Tls
from common.net.listening import listen_at
from common.sparing import SparingLog
from common.supervision import PAUSE_SECONDS, Rounds, SupervisedThread
from common.wire.methods import Method

log = logging.getLogger("layerwise.data")
# Of peers that break the rules.
_closed = SparingLog(log)

# Upper bound of a stop, for all connections together.
STOP_SECONDS = 10.0

# Reads a call's requests and sends its answers.
Handler = Callable[[Requests], None]


class UnknownMethodError(LayerwiseError):
    """A call of a method that the server does not have."""

    status = "UNIMPLEMENTED"


class DataServer:
    """Serves methods from threads of its own.

    Args:
        on_error: takes the error of each call that fails.
        bounds: of the open connections; with few files there are fewer places for strangers.
        opening_seconds: time in which a stranger must begin a call, TLS handshake included, and send the
            call's first message.
        stalled_seconds: longest standstill within a request.
        admit: takes path and credentials in a call's headers before the handler runs, on any thread, and of a
            silent lease holder now and then; raises LayerwiseError to refuse the caller.
        tls: certificates and trust; None: in the clear.
    """

    def __init__(
        self,
        on_error: Callable[[LayerwiseError], None] = lambda _: None,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
        opening_seconds: float = OPENING_SECONDS,
        *,
        stalled_seconds: float = WRITE_SECONDS,
        admit: Admit = lambda *_: None,
        tls: Tls | None = None,
    ) -> None:
        self._handlers: dict[str, tuple[Handler, int]] = {}
        self._open: dict[str, tuple[streams.Handler, asyncio.AbstractEventLoop]] = {}
        bounds = bounds.within(file_limit())
        self._places: Places[Connection] = Places(bounds)
        # Connections that were told to leave are still open for a moment.
        self._most = bounds.holders + 2 * bounds.strangers
        self._opening_seconds = opening_seconds
        self._stalled_seconds = stalled_seconds
        self._on_error = on_error
        self._admit = admit
        self._tls = tls
        self._listening: socket.socket | None = None
        self._threads: dict[Connection, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._accepting = SupervisedThread(self._accept, "data")

    def add(self, method: Method[Any, Any], handler: Handler) -> None:
        """Serve a method."""
        self._handlers[method.path] = handler, method.request_bytes

    def add_open(
        self, method: Method[Any, Any], handler: streams.Handler, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Serve a method whose calls stay open, on an event loop that must outlive this server."""
        self._open[method.path] = handler, loop

    def start(self, host: str, port: int, option: str = "--bulk-port") -> int:
        """Listen; returns the port that was taken.

        Args:
            host: an address of this machine, as for `open_listener`.
            port: to listen on; 0 takes a free one.
            option: command-line option that chooses the port, for the error.

        Raises:
            RefusedError: the address cannot be listened on.
        """
        return self.take(listen_at(option, host, port))

    def take(self, listening: socket.socket) -> int:
        """Serve a listener, which is this server's from now on; returns its port."""
        self._listening = listening
        self._accepting.start()
        return int(listening.getsockname()[1])

    def stop(self) -> None:
        """End every call and connection, within STOP_SECONDS."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        self._stopping.set()
        # Closing alone would not wake the thread that accepts.
        listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        listening.close()
        with self._lock:
            threads = dict(self._threads)
        for connection in threads:
            connection.pipe.interrupt()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if left := sum(thread.is_alive() for thread in threads.values()):
            log.error("%d calls did not end within %g s", left, STOP_SECONDS)

    def _accept(self) -> None:
        """Take connections until the stop; where files or threads are short, wait for others to end."""
        listening = self._listening
        assert listening is not None
        rounds = Rounds("the data port takes no connection")
        while not self._stopping.is_set():
            with rounds.attempt():
                self._accept_from(listening)
            if rounds.failures:
                self._stopping.wait(PAUSE_SECONDS)

    def _accept_from(self, listening: socket.socket) -> None:
        try:
            stream, peer = listening.accept()
        except ConnectionAbortedError:  # the peer has left again
            return
        except OSError:
            if self._stopping.is_set():
                return
            raise
        try:
            connection = Connection(prepare(stream), serves=True, tls=self._tls)
        except (OSError, BrokenError):
            # The peer has left again.
            stream.close()
            return
        self._take(connection, neighbourhood(peer[0]))

    def _take(self, connection: Connection, address: str) -> None:
        """Serve a connection on a thread, in the place of an older one if need be."""
        thread = SupervisedThread(lambda: self._serve(connection), "data")
        with self._lock:
            if taken := len(self._threads) < self._most:
                self._threads[connection] = thread
                self._send_away(self._places.enter(connection, address))
        try:
            if taken:
                thread.start()
            else:
                connection.pipe.close()
        except BlockingIOError:
            self._drop(connection)
            raise

    def _promote(self, connection: Connection, incarnation: int) -> None:
        with self._lock:
            self._send_away(self._places.promote(connection, incarnation))

    def _send_away(self, connection: Connection | None) -> None:
        if connection is not None:
            self._on_error(UnreachableError("a connection has given its place to a newer one"))
            connection.pipe.interrupt()

    def _drop(self, connection: Connection) -> None:
        connection.pipe.close()
        with self._lock:
            self._places.leave(connection)
            self._threads.pop(connection, None)

    def _serve(self, connection: Connection) -> None:
        caller = Caller(connection, self._admit, self._promote, self._opening_seconds)
        try:
            caller.bound_wait()
            self._open_connection(connection)
            while (headers := connection.accept()) is not None:
                if (served := self._open.get(dict(headers).get(":path", ""))) and _is_grpc(headers):
                    handler, loop = served
                    answered = self._answer_open(connection, caller, headers, handler)
                    asyncio.run_coroutine_threadsafe(answered, loop).result()
                    return
                self._answer(connection, caller, headers)
                caller.bound_wait()
        except ProtocolError as error:
            _closed.say(logging.INFO, "a connection of the data plane was closed: %s", error)
            connection.refuse(error.code, str(error))
        except LayerwiseError as error:
            log.debug("a connection of the data plane ended: %s", error)
        except Exception:
            log.exception("a call of the data plane failed")
        finally:
            self._drop(connection)

    def _open_connection(self, connection: Connection) -> None:
        try:
            connection.open()
        except RefusedError as error:
            self._on_error(error)
            raise

    async def _answer_open(
        self, connection: Connection, caller: Caller, headers: Headers, handler: streams.Handler
    ) -> None:
        def admit() -> int:
            shown = credentials_of(headers, connection.certificate)
            self._admit(dict(headers)[":path"], shown)
            return shown.incarnation

        await streams.answer(connection.hand_over(), handler, self._on_error, admit, caller.welcome)

    def _answer(self, connection: Connection, caller: Caller, headers: Headers) -> None:
        if not _is_grpc(headers):
            connection.send_headers([(":status", "415")], last=True)
            return
        connection.send_headers(ANSWER_HEADERS)
        try:
            path = dict(headers).get(":path", "")
            if (served := self._handlers.get(path)) is None:
                raise UnknownMethodError(
                    f"this port serves {self._services()} alone; the gRPC port has the rest"
                )
            caller.identify(path, credentials_of(headers, connection.certificate))
            handler, most = served
            handler(Requests(connection, most, caller, self._stalled_seconds))
        except ResetError:
            return
        except BrokenError:
            raise
        except LayerwiseError as error:
            self._on_error(error)
            connection.send_headers(status_headers(error.status, str(error)), last=True)
            if caller.lapsed or isinstance(error, StalledError):
                # The beginning of the peer's next frame is unknown.
                connection.refuse(Code.NO_ERROR, "it stood still")
                raise BrokenError(str(error)) from None
        else:
            connection.send_headers(status_headers("OK"), last=True)

    def _services(self) -> str:
        services = {path.split("/")[1].rpartition(".")[2] for path in (*self._handlers, *self._open)}
        return " and ".join(sorted(services))


def _is_grpc(headers: Headers) -> bool:
    return dict(headers).get("content-type", "").startswith(CONTENT_TYPE)
