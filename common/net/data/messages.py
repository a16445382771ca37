"""A call's messages and its status, as either end has them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

import grpc

from common import errors
from common.errors import MalformedError, TooLargeError
from common.net.http2.connection import Connection
from common.net.http2.frames import Headers
from common.shards.assembly import Assembly
from common.shards.pushes import Buffer
from common.wire.methods import Method
from common.wire.payloads import PIECE_HEAD_BYTES, decode_frame, piece_head

# Of a shard: a chunk and its header fit well.
LARGEST_MESSAGE_BYTES = 4 << 20
# What comes before a message: whether it is compressed, and its length.
PREFIX_BYTES = 5
CONTENT_TYPE = "application/grpc"
# What an answer begins with.
ANSWER_HEADERS: Headers = [(":status", "200"), ("content-type", CONTENT_TYPE)]
# After so much silence a peer is asked whether it is still there, and given up when it does not answer.
_SILENT_SECONDS = 10
_GONE_MILLISECONDS = 20_000
_LONGEST_TEXT = 2000
_FIRST_HEADERS = [(":method", "POST"), (":scheme", "http"), (":authority", "layerwise")]
_FURTHER_HEADERS = [("te", "trailers"), ("content-type", CONTENT_TYPE)]
_NUMBERS = {code.name: str(code.value[0]) for code in grpc.StatusCode}
_NAMES = {number: name for name, number in _NUMBERS.items()}


def call_headers(method: Method[Any, Any]) -> Headers:
    """What a call begins with."""
    return [*_FIRST_HEADERS, (":path", method.path), *_FURTHER_HEADERS]


def status_headers(status: str, text: str = "") -> Headers:
    """The trailers of a call that ended so."""
    return [("grpc-status", _NUMBERS[status]), ("grpc-message", quote(text[:_LONGEST_TEXT], safe=" "))]


def is_over(headers: Headers, method: Method[Any, Any]) -> bool:
    """Whether these headers are a call's last, with its status.

    Raises:
        LayerwiseError: what that stands for, if the call failed.
    """
    found = dict(headers)
    if "grpc-status" not in found:
        return False
    status = _NAMES.get(found["grpc-status"], "UNKNOWN")
    if status != "OK":
        text = unquote(found.get("grpc-message", ""))
        raise errors.from_status(status, text or f"{method.service}.{method.name} failed with {status}")
    return True


def prepare(stream: socket.socket) -> socket.socket:
    """Set a connected socket up: small messages at once, and a peer that is gone is noticed."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _SILENT_SECONDS),
        ("TCP_KEEPINTVL", _SILENT_SECONDS // 2),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", _GONE_MILLISECONDS),
    ):
        if hasattr(socket, name):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return stream


def prefix(parts: Iterable[Buffer]) -> bytes:
    """What comes before a message in parts."""
    return struct.pack(">BL", 0, sum(memoryview(part).nbytes for part in parts))


def message_length(prefix: Buffer, most: int) -> int:
    """Of the message that comes after this.

    Raises:
        MalformedError: no message can begin like this.
        TooLargeError: none may be of that size.
    """
    compressed, length = struct.unpack(">BL", prefix)
    if compressed:
        raise MalformedError("a message is compressed, which none may be")
    if length > most:
        raise TooLargeError(f"a message has {length} bytes; at most {most}")
    return int(length)


class Messages:
    """A call's messages, in and out, at either end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, *parts: Buffer, last: bool = False) -> None:
        """A message, in parts, from where they lie."""
        self.connection.send(prefix(parts), *parts, last=last)

    def read(self) -> bytearray | None:
        """The next message; None at their end."""
        length = self.length()
        return None if length is None else self.part(length)

    def length(self) -> int | None:
        """Of the next message, whose parts are then to be read; None at their end.

        Raises:
            MalformedError: no message can begin like this.
            TooLargeError: none may be of that size.
        """
        if not self.connection.more():
            return None
        return message_length(self.part(PREFIX_BYTES), LARGEST_MESSAGE_BYTES)

    def part(self, nbytes: int) -> bytearray:
        """So much of the message that is being read."""
        found = bytearray(nbytes)
        self.into(memoryview(found))
        return found

    def into(self, target: memoryview) -> None:
        """So much of the message that is being read, to its place."""
        if not self.connection.into(target):
            raise MalformedError("the stream ended within a message")

    def land(self, assembly: Assembly, buffer: memoryview) -> slice | None:
        """Take the next frame's piece to its place in a buffer; None where there is none any more.

        Raises:
            MalformedError: it is not the piece that comes next.
        """
        if (nbytes := self.length()) is None:
            return None
        head = bytes(self.part(min(nbytes, PIECE_HEAD_BYTES)))
        if (found := piece_head(head, nbytes)) is None:
            frame = decode_frame(head + self.part(nbytes - len(head)))
            assembly.add(frame)
            assembly.pieces.clear()
            where = slice(frame.offset, frame.offset + len(frame.data))
            buffer[where] = frame.data
            return where
        offset, begin = found
        assembly.expect(offset, nbytes - begin)
        target = buffer[offset : offset + nbytes - begin]
        target[: len(head) - begin] = head[begin:]
        self.into(target[len(head) - begin :])
        return slice(offset, offset + target.nbytes)
