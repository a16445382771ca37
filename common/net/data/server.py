"""The answering end: a thread for each connection, which answers one call after the other.

Calls that stay open are an event loop's: the thread hands its connection over, and waits for their end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from common.errors import LayerwiseError, StalledError
from common.net.addresses import cannot_listen
from common.net.data import streams
from common.net.data.messages import ANSWER_HEADERS, CONTENT_TYPE, Messages, prepare, status_headers
from common.net.http2.connection import Connection
from common.net.http2.frames import BrokenError, Code, Headers, ProtocolError, ResetError
from common.wire.methods import Method

log = logging.getLogger("layerwise.bulk")

# Four of every slave, and some readers.
MOST_CONNECTIONS = 2048
OPENING_SECONDS = 10.0

# Reads a call's requests and sends its answers.
Handler = Callable[[Messages], None]


class UnknownMethodError(LayerwiseError):
    """Nobody serves what was called."""

    status = "UNIMPLEMENTED"


class Server:
    """Serves methods from threads of its own.

    Args:
        on_error: told of each call that an error ends.
        most: so many connections may be open at a time; a further one is closed.
        opening_seconds: in which one has to have begun its first call.
    """

    def __init__(
        self,
        on_error: Callable[[LayerwiseError], None] = lambda _: None,
        most: int = MOST_CONNECTIONS,
        opening_seconds: float = OPENING_SECONDS,
    ) -> None:
        self._handlers: dict[str, Handler] = {}
        self._open: dict[str, tuple[streams.Handler, asyncio.AbstractEventLoop]] = {}
        self._most = most
        self._opening_seconds = opening_seconds
        self._on_error = on_error
        self._listening: socket.socket | None = None
        self._threads: dict[Connection, threading.Thread] = {}
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, name="bulk", daemon=True)

    def add(self, method: Method[Any, Any], handler: Handler) -> None:
        """Serve a method."""
        self._handlers[method.path] = handler

    def add_open(
        self, method: Method[Any, Any], handler: streams.Handler, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Serve a method whose calls stay open, on an event loop, which must outlive this server."""
        self._open[method.path] = handler, loop

    def start(self, host: str, port: int, option: str = "--bulk-port") -> int:
        """Listen; returns the port that was taken (0 takes a free one).

        Args:
            host: an address of this machine.
            port: of it.
            option: of the command line, by which another port is chosen.

        Raises:
            RefusedError: it cannot be listened on.
        """
        bare = host.strip("[]")
        family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        try:
            self._listening = socket.create_server((bare, port), family=family, backlog=128)
        except OSError as error:
            raise cannot_listen(option, host, port, error.strerror) from None
        self._accepting.start()
        return int(self._listening.getsockname()[1])

    def stop(self) -> None:
        """End every call and connection."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        # Closing alone would not wake the thread that accepts.
        listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        listening.close()
        with self._lock:
            threads = dict(self._threads)
        for connection in threads:
            connection.pipe.interrupt()
        for thread in threads.values():
            thread.join()

    def _accept(self) -> None:
        listening = self._listening
        assert listening is not None
        while True:
            try:
                stream, _ = listening.accept()
            except OSError:
                return
            connection = Connection(prepare(stream), serves=True)
            thread = threading.Thread(target=self._serve, args=(connection,), name="bulk", daemon=True)
            with self._lock:
                taken = len(self._threads) < self._most
                if taken:
                    self._threads[connection] = thread
            if taken:
                thread.start()
            else:
                connection.pipe.close()

    def _serve(self, connection: Connection) -> None:
        try:
            # Who connects has something to ask; who never does may not keep others out.
            connection.pipe.set_deadline(time.monotonic() + self._opening_seconds)
            connection.open()
            while (headers := connection.accept()) is not None:
                connection.pipe.set_deadline(None)
                if (served := self._open.get(dict(headers).get(":path", ""))) and _is_grpc(headers):
                    handler, loop = served
                    asyncio.run_coroutine_threadsafe(self._answer_open(connection, handler), loop).result()
                    return
                self._answer(connection, headers)
                connection.pipe.set_deadline(None)
        except ProtocolError as error:
            log.info("a connection for shards was closed: %s", error)
            connection.refuse(error.code, str(error))
        except LayerwiseError as error:
            log.debug("a connection for shards ended: %s", error)
        except Exception:
            log.exception("a call for a shard failed")
        finally:
            connection.pipe.close()
            with self._lock:
                self._threads.pop(connection, None)

    async def _answer_open(self, connection: Connection, handler: streams.Handler) -> None:
        await streams.answer(connection.handed_over(), handler, self._on_error)

    def _answer(self, connection: Connection, headers: Headers) -> None:
        if not _is_grpc(headers):
            connection.send_headers([(":status", "415")], last=True)
            return
        connection.send_headers(ANSWER_HEADERS)
        try:
            if (handler := self._handlers.get(dict(headers).get(":path", ""))) is None:
                raise UnknownMethodError(f"this port serves {self._served()} alone; the gRPC port the rest")
            handler(Messages(connection))
        except ResetError:
            return
        except BrokenError:
            raise
        except LayerwiseError as error:
            self._on_error(error)
            connection.send_headers(status_headers(error.status, str(error)), last=True)
            if isinstance(error, StalledError):
                # Where its next frame will begin is not known.
                connection.refuse(Code.NO_ERROR, "it stood still")
                raise BrokenError(str(error)) from None
        else:
            connection.send_headers(status_headers("OK"), last=True)

    def _served(self) -> str:
        services = {path.split("/")[1].rpartition(".")[2] for path in (*self._handlers, *self._open)}
        return " and ".join(sorted(services))


def _is_grpc(headers: Headers) -> bool:
    return dict(headers).get("content-type", "").startswith(CONTENT_TYPE)
