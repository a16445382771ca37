"""A TCP proxy: a link that can be cut, in one direction or both, be slow, or lose what is answered."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from common.errors import LayerwiseError


class Proxy:
    """Passes connections on to where its target is at the moment.

    A link that is cut holds what it is given, as senders do that get no acknowledgement, and passes it on
    when it is healed; `swallow` and `restore` are for what is lost for good.
    """

    def __init__(
        self, target: Callable[[], tuple[str, int]], listen: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self._target = target
        self._swallowing = threading.Event()
        # Of what is asked, and of what is answered.
        self._whole = {False: threading.Event(), True: threading.Event()}
        self._turns = {False: threading.Lock(), True: threading.Lock()}
        self._seconds_a_byte, self._latency = 0.0, 0.0
        self.heal()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(listen)
        self.address = f"{listen[0]}:{self._listening.getsockname()[1]}"
        self._start(self._accept)

    def swallow(self) -> None:
        """From now on drop what the target answers."""
        self._swallowing.set()

    def restore(self) -> None:
        """Cut every connection, as a network that comes back does, and pass on everything on new ones."""
        self._break()
        self._swallowing.clear()

    def cut(self, *, asked: bool = True, answered: bool = True) -> None:
        """From now on hold what is asked of the target, or what it answers, or both."""
        for answers, chosen in ((False, asked), (True, answered)):
            if chosen:
                self._whole[answers].clear()

    def heal(self) -> None:
        """Pass on what was held, and what comes."""
        for whole in self._whole.values():
            whole.set()

    def slow(self, bytes_per_second: float, latency: float) -> None:
        """All connections share so much, in each direction; each piece takes `latency` seconds more."""
        self._seconds_a_byte, self._latency = 1 / bytes_per_second, latency

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
                self._travel(len(data), answers)
                if not (answers and self._swallowing.is_set()):
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _travel(self, nbytes: int, answers: bool) -> None:
        """Take the time that the link takes."""
        self._whole[answers].wait()
        if self._seconds_a_byte:
            with self._turns[answers]:
                time.sleep(nbytes * self._seconds_a_byte)
            time.sleep(self._latency)

    def _start(self, work: object) -> None:
        assert callable(work)
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _break(self) -> None:
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
        self.heal()
        self._break()
        for thread in self._threads:
            thread.join(5)
