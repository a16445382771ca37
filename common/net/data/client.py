"""The calling end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from common.errors import LayerwiseError, RunFailedError, UnreachableError
from common.net import addresses, control
from common.net.data.messages import Messages, call_headers, is_over, prepare
from common.net.http2.connection import Connection
from common.net.http2.frames import Headers, ResetError
from common.shards.assembly import Assembly
from common.shards.pushes import Buffer, Header, PullRequest
from common.wire.messages import DescribeRequest
from common.wire.methods import DESCRIBE, PULL, Method
from common.wire.payloads import decode_frame

LOCATE_SECONDS = 5.0
CONNECT_SECONDS = 10.0


def locate(master: str) -> tuple[str, int]:
    """Where a master serves shards: host and port. Another one at the same address serves them elsewhere.

    Raises:
        LayerwiseError: it does not say.
    """
    channel = control.channel(master)
    try:
        port = control.call(channel, DESCRIBE, DescribeRequest(), LOCATE_SECONDS).bulk_port
    finally:
        channel.close()
    return addresses.split_address(master)[0], port


class Channel:
    """Calls to a server, one after the other over one connection, which is made when it is needed.

    Args:
        locate: says where the server is, HOST and port; raises UnreachableError if nobody knows.
    """

    def __init__(self, locate: Callable[[], tuple[str, int]]) -> None:
        self._locate = locate
        self._connection: Connection | None = None
        self._closed = False

    def call(self, method: Method[Any, Any]) -> Call:
        """Begin a call.

        Raises:
            UnreachableError: there is no server.
        """
        connection = self._connection or self._connect()
        connection.pipe.set_deadline(time.monotonic() + CONNECT_SECONDS)
        try:
            connection.request(call_headers(method))
        except LayerwiseError:
            self.drop()
            raise
        return Call(self, connection, method)

    def _connect(self) -> Connection:
        host, port = self._locate()
        try:
            stream = socket.create_connection((host.strip("[]"), port), CONNECT_SECONDS)
        except OSError as error:
            raise UnreachableError(
                f"{host}:{port}: the master's port for shards does not answer ({error.strerror or error}); "
                "is it open between the two machines?"
            ) from None
        connection = Connection(prepare(stream), serves=False)
        self._connection = connection
        if self._closed:
            connection.pipe.interrupt()
        connection.pipe.set_deadline(time.monotonic() + CONNECT_SECONDS)
        try:
            connection.open()
        except LayerwiseError:
            self.drop()
            raise
        return connection

    def drop(self) -> None:
        """Have the next call make a connection of its own."""
        connection, self._connection = self._connection, None
        if connection:
            connection.pipe.close()

    def interrupt(self) -> None:
        """From another thread: have the call that is under way, and every later one, fail."""
        self._closed = True
        if connection := self._connection:
            connection.pipe.interrupt()


class Call:
    """A call under way; left before its end, or with an error, its connection is given up.

    Raises (every method):
        LayerwiseError: what the server's status stands for.
        UnreachableError: the connection broke, or the server took too long.
    """

    def __init__(self, channel: Channel, connection: Connection, method: Method[Any, Any]) -> None:
        self._channel = channel
        self._connection = connection
        self._method = method
        self._messages = Messages(connection)
        self._answered = self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or not self._over:
            self._channel.drop()

    def send(self, *parts: Buffer, last: bool = False) -> None:
        """A message, in parts, from where they lie."""
        try:
            self._messages.send(*parts, last=last)
        except ResetError:
            self._finish()
            raise

    def end(self) -> None:
        """There are no more messages; what is still answered is dropped."""
        self._connection.send(last=True)
        while self.read(CONNECT_SECONDS) is not None:
            pass

    def read(self, seconds: float) -> bytearray | None:
        """The next answer; None after the last."""
        self._await(seconds)
        answer = self._messages.read()
        if answer is None:
            self._finish()
        return answer

    def land(self, assembly: Assembly, buffer: memoryview, seconds: float) -> None:
        """Take the next frame's piece to its place in a buffer."""
        self._await(seconds)
        if self._messages.land(assembly, buffer) is None:
            self._finish()
            raise RunFailedError("a pull ended before the shard was whole")

    def _await(self, seconds: float) -> None:
        self._connection.pipe.set_deadline(time.monotonic() + seconds)
        if not self._answered:
            self._answered = True
            self._heard(self._connection.headers())

    def _finish(self) -> None:
        while not self._heard(self._connection.headers()):
            pass

    def _heard(self, headers: Headers) -> bool:
        """Whether these headers are the last (see `is_over`)."""
        self._over = is_over(headers, self._method)
        return self._over


def pull(channel: Channel, request: PullRequest, seconds: float) -> tuple[Header, memoryview]:
    """One consistent version of a shard: its header and its buffer.

    Raises:
        NotFoundError: there is no such shard.
        LayerwiseError: the pull failed otherwise.
    """
    until = time.monotonic() + seconds
    with channel.call(PULL) as call:
        call.send(PULL.request.encode(request), last=True)
        first = call.read(seconds)
        if first is None:
            raise RunFailedError("a pull ended before the shard was whole")
        assembly = Assembly(decode_frame(first), None)
        buffer = _room(assembly)
        while not assembly.complete:
            call.land(assembly, buffer, until - time.monotonic())
        if call.read(until - time.monotonic()) is not None:
            raise RunFailedError("a pull went on after the shard was whole")
    return assembly.header, buffer


def _room(assembly: Assembly) -> memoryview:
    """A buffer for all of it, with what has come."""
    buffer = np.empty(assembly.header.table.nbytes, np.uint8)
    for offset, piece in assembly.pieces:
        buffer[offset : offset + piece.nbytes] = np.frombuffer(piece, np.uint8)
    assembly.pieces.clear()
    return buffer.data
