"""The answering end: a thread for each connection, which answers one call after the other."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from common.bulk.messages import CONTENT_TYPE, Messages, prepare, status_headers
from common.errors import LayerwiseError, RefusedError, StalledError
from common.http2.connection import Connection
from common.http2.frames import BrokenError, Code, Headers, ProtocolError, ResetError
from common.wire.methods import Method

log = logging.getLogger("layerwise.bulk")

# Two of every slave, and some readers.
MOST_CONNECTIONS = 1024

# Reads a call's requests and sends its answers.
Handler = Callable[[Messages], None]


class UnknownMethodError(LayerwiseError):
    """Nobody serves what was called."""

    status = "UNIMPLEMENTED"


class Server:
    """Serves methods from threads of its own."""

    def __init__(self, on_error: Callable[[LayerwiseError], None] = lambda _: None) -> None:
        self._handlers: dict[str, Handler] = {}
        self._on_error = on_error
        self._listening: socket.socket | None = None
        self._threads: dict[Connection, threading.Thread] = {}
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, name="bulk", daemon=True)

    def add(self, method: Method[Any, Any], handler: Handler) -> None:
        """Serve a method."""
        self._handlers[method.path] = handler

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port that was taken (0 takes a free one).

        Raises:
            RefusedError: it cannot be listened on.
        """
        bare = host.strip("[]")
        family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        try:
            self._listening = socket.create_server((bare, port), family=family, backlog=128)
        except OSError as error:
            raise RefusedError(
                f"{host}:{port}: cannot be listened on for shards ({error.strerror or error}); "
                "name a free port by --bulk-port, or none to have one chosen"
            ) from None
        self._accepting.start()
        return int(self._listening.getsockname()[1])

    def stop(self) -> None:
        """End every call and connection."""
        if self._listening is None:
            return
        # Closing alone would not wake the thread that accepts.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        with self._lock:
            threads = dict(self._threads)
        for connection in threads:
            connection.pipe.interrupt()
        for thread in threads.values():
            thread.join()

    def _accept(self) -> None:
        assert self._listening is not None
        while True:
            try:
                stream, _ = self._listening.accept()
            except OSError:
                return
            connection = Connection(prepare(stream), serves=True)
            thread = threading.Thread(target=self._serve, args=(connection,), name="bulk", daemon=True)
            with self._lock:
                taken = len(self._threads) < MOST_CONNECTIONS
                if taken:
                    self._threads[connection] = thread
            if taken:
                thread.start()
            else:
                connection.pipe.close()

    def _serve(self, connection: Connection) -> None:
        try:
            connection.open()
            while (headers := connection.accept()) is not None:
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

    def _answer(self, connection: Connection, headers: Headers) -> None:
        asked = dict(headers)
        if not asked.get("content-type", "").startswith(CONTENT_TYPE):
            connection.send_headers([(":status", "415")], last=True)
            return
        connection.send_headers([(":status", "200"), ("content-type", CONTENT_TYPE)])
        try:
            if (handler := self._handlers.get(asked.get(":path", ""))) is None:
                raise UnknownMethodError("this port serves Parameters alone; the gRPC port serves the rest")
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
