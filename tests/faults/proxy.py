"""A TCP proxy that can keep the answers to itself: what was asked arrives, what is answered is lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from common.errors import LayerwiseError


class Proxy:
    """Passes connections on to where its target is at the moment."""

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        self._target = target
        self._swallowing = threading.Event()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._start(self._accept)

    def swallow(self) -> None:
        """From now on drop what the target answers."""
        self._swallowing.set()

    def restore(self) -> None:
        """Cut every connection, as a network that comes back does, and pass on everything on new ones."""
        self._cut()
        self._swallowing.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                target = socket.create_connection(self._target())
            except (OSError, LayerwiseError):
                client.close()
                continue
            self._ends += [client, target]
            self._start(lambda a=client, b=target: self._pass(a, b, answers=False))
            self._start(lambda a=target, b=client: self._pass(a, b, answers=True))

    def _pass(self, source: socket.socket, sink: socket.socket, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not (answers and self._swallowing.is_set()):
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, work: object) -> None:
        assert callable(work)
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _cut(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._cut()
        for thread in self._threads:
            thread.join(5)
