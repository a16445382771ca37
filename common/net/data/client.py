"""Calling end of the data plane, for a thread."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from common.credentials import NOBODY, Credentials
from common.errors import LayerwiseError, RefusedError, RunFailedError, UnreachableError
from common.net import addresses, control
from common.net.data.messages import Messages, call_headers, is_over, prepare
from common.net.http2.connection import Connection
from common.net.http2.frames import Headers, ResetError
from common.net.http2.pace import Pace
from common.net.http2.tls import Tls
from common.net.identity import Identity
from common.shards.assembly import Assembly
from common.shards.pushes import Buffer, Header, PullRequest
from common.wire.messages import DescribeRequest
from common.wire.methods import DESCRIBE, LOCATE, PULL, Method
from common.wire.payloads import decode_frame
from common.wire.stores import LocateRequest

LOCATE_SECONDS = 5.0
CONNECT_SECONDS = 10.0
# Longest time that one message, a chunk at most, may wait for the server's window.
SEND_SECONDS = 30.0


def locate(master: str, identity: Identity | None = None, shard: str = "") -> tuple[str, int]:
    """Ask a master for host and port of the data plane, which a restart may change.

    Args:
        master: HOST:PORT.
        identity: certificates of this process; None: in the clear.
        shard: ask for the store that keeps a shard; empty: for the master itself.

    Raises:
        NotFoundError: no store has the shard.
        LayerwiseError: the master does not answer.
    """
    with control.channel(master, identity) as channel:
        if shard:
            request = LocateRequest(shard)
            address = control.call(channel, LOCATE, request, LOCATE_SECONDS).address
            return addresses.split_address(address)
        port = control.call(channel, DESCRIBE, DescribeRequest(), LOCATE_SECONDS).bulk_port
    return addresses.split_address(master)[0], port


class DataClient:
    """Calls to a data server in sequence, over a connection that the first call opens.

    Args:
        locate: returns the server's host and port; raises UnreachableError while they are unknown.
        shown: credentials of the caller, sent with every call.
        tls: certificates and trust; None: in the clear.
    """

    def __init__(
        self,
        locate: Callable[[], tuple[str, int]],
        shown: Credentials = NOBODY,
        tls: Tls | None = None,
    ) -> None:
        self._locate = locate
        self._shown = shown
        self._tls = tls
        self._connection: Connection | None = None
        self._closed = False

    def call(self, method: Method[Any, Any]) -> Call:
        """Begin a call.

        Raises:
            UnreachableError: no server answers.
            RefusedError: the server's certificate, or this side's, is refused.
        """
        connection = self._standing() or self._connect()
        connection.pipe.set_deadline(time.monotonic() + CONNECT_SECONDS)
        try:
            connection.request(call_headers(method, self._shown))
        except LayerwiseError:
            self.drop()
            raise
        return Call(self, connection, method)

    def _standing(self) -> Connection | None:
        """Return the connection, unless the server has ended it: a silent stranger's does not last."""
        if (connection := self._connection) is not None:
            connection.pipe.set_deadline(time.monotonic() + CONNECT_SECONDS)
            try:
                connection.take_news()
            except LayerwiseError:
                self.drop()
        return self._connection

    def _connect(self) -> Connection:
        address, port = self._locate()
        host = address.strip("[]")
        try:
            stream = socket.create_connection((host, port), CONNECT_SECONDS)
        except OSError as error:
            why = error.strerror or error
            raise UnreachableError(
                f"{address}:{port}: the port for shards does not answer ({why}); {addresses.advice(address)}"
            ) from None
        connection = Connection(prepare(stream), serves=False, tls=self._tls, host=host)
        self._connection = connection
        if self._closed:
            connection.pipe.interrupt()
        connection.pipe.set_deadline(time.monotonic() + CONNECT_SECONDS)
        try:
            connection.open()
        except RefusedError as error:
            self.drop()
            raise RefusedError(f"{address}:{port}: {error}") from None
        except LayerwiseError:
            self.drop()
            raise
        return connection

    def drop(self) -> None:
        """Close the connection; the next call opens a new connection."""
        connection, self._connection = self._connection, None
        if connection:
            connection.pipe.close()

    def interrupt(self) -> None:
        """Make the call under way and every later call fail; from another thread."""
        self._closed = True
        if connection := self._connection:
            connection.pipe.interrupt()


class Call:
    """Call under way; a call that is left before its end, or with an error, closes its connection.

    Raises (every method):
        LayerwiseError: the error that the server's status stands for.
        UnreachableError: the connection broke, or the server took too long.
    """

    def __init__(self, client: DataClient, connection: Connection, method: Method[Any, Any]) -> None:
        self._client = client
        self._connection = connection
        self._method = method
        self._messages = Messages(connection, method.reply_bytes)
        self._answered = self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or not self._over:
            self._client.drop()

    def send(self, *parts: Buffer, last: bool = False) -> None:
        """Send a message without a copy of the parts."""
        self._connection.pipe.set_deadline(time.monotonic() + SEND_SECONDS)
        try:
            self._messages.send(*parts, last=last)
        except ResetError:
            self._finish()
            raise

    def end(self) -> None:
        """End the messages, and drop the answers that still come."""
        self._connection.send(last=True)
        while self.read(CONNECT_SECONDS) is not None:
            pass

    def read(self, bound: float | Pace) -> bytearray | None:
        """Read the next answer, within seconds or at a pace; None after the last."""
        self._await(bound)
        answer = self._messages.read()
        if answer is None:
            self._finish()
        return answer

    def land(self, assembly: Assembly, buffer: memoryview, pace: Pace) -> None:
        """Receive the next frame's piece in place in a shard's buffer, at a pace."""
        self._await(pace)
        if self._messages.land(assembly, buffer) is None:
            self._finish()
            raise RunFailedError("a pull ended before the shard was whole")

    def _await(self, bound: float | Pace) -> None:
        if isinstance(bound, Pace):
            self._connection.pipe.set_pace(bound)
        else:
            self._connection.pipe.set_deadline(time.monotonic() + bound)
        if not self._answered:
            self._answered = True
            self._take_headers(self._connection.headers())

    def _finish(self) -> None:
        while not self._take_headers(self._connection.headers()):
            pass

    def _take_headers(self, headers: Headers) -> bool:
        """Whether headers end the call (see `is_over`)."""
        self._over = is_over(headers, self._method)
        return self._over


def pull(
    client: DataClient, request: PullRequest, seconds: float, room: memoryview | None = None
) -> tuple[Header, memoryview]:
    """Pull one consistent version of a shard, and return header and buffer.

    Args:
        client: of the master.
        request: the shard and the reader.
        seconds: longest standstill; a pull that goes on may take any time.
        room: memory for the version, if of the right size; by default the memory is new.

    Raises:
        NotFoundError: the master has no shard of that name.
        LayerwiseError: the pull failed otherwise.
    """
    pace = Pace(seconds)
    with client.call(PULL) as call:
        call.send(PULL.request.encode(request), last=True)
        first = call.read(pace)
        if first is None:
            raise RunFailedError("a pull ended before the shard was whole")
        assembly = Assembly(decode_frame(first), None)
        buffer = _place(assembly, room)
        while not assembly.complete:
            call.land(assembly, buffer, pace)
        if call.read(pace) is not None:
            raise RunFailedError("a pull went on after the shard was whole")
    return assembly.header, buffer


def _place(assembly: Assembly, room: memoryview | None) -> memoryview:
    """Return memory for the version, with the pieces that have come: `room` itself where the size fits.

    A view of `room` would keep the view before it, so that views would grow with the number of fetches.
    """
    nbytes = assembly.header.nbytes
    if room is None or room.nbytes != nbytes:
        room = np.empty(nbytes, np.uint8).data
    for offset, piece in assembly.pieces:
        room[offset : offset + piece.nbytes] = piece
    assembly.pieces.clear()
    return room
