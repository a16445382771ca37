"""Headers, messages and status of a call, common to both ends."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, unquote

import grpc

from common import errors
from common.bounds import LARGEST_PIECE_MESSAGE_BYTES
from common.credentials import NOBODY, Credentials
from common.errors import MalformedError, TooLargeError
from common.net.http2.connection import Connection
from common.net.http2.frames import Headers
from common.shards.assembly import Assembly
from common.shards.pushes import Buffer
from common.wire.methods import Method
from common.wire.payloads import PIECE_HEAD_BYTES, decode_frame, piece_head

# Prefix of a message: a flag for compression and the length.
PREFIX_BYTES = 5
# Memory for a message grows with the bytes that have come, from this size on.
_FIRST_BYTES = 64 << 10
CONTENT_TYPE = "application/grpc"
# Headers that an answer begins with.
ANSWER_HEADERS: Headers = [(":status", "200"), ("content-type", CONTENT_TYPE)]
# TCP probes a silent peer after so long, and gives up a peer that does not acknowledge.
_SILENT_SECONDS = 10
_GONE_MILLISECONDS = 20_000
_LONGEST_TEXT = 2000
# Characters of `grpc-message` that stand for themselves: space to tilde, but the sign that escapes others.
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F)).replace("%", "")
_FIRST_HEADERS = [(":method", "POST"), (":scheme", "http"), (":authority", "layerwise")]
_FURTHER_HEADERS = [("te", "trailers"), ("content-type", CONTENT_TYPE)]
_NUMBERS = {code.name: str(code.value[0]) for code in grpc.StatusCode}
_NAMES = {number: name for name, number in _NUMBERS.items()}


def call_headers(method: Method[Any, Any], shown: Credentials = NOBODY) -> Headers:
    """Build the headers of a call that shows credentials."""
    return [*_FIRST_HEADERS, (":path", method.path), *_FURTHER_HEADERS, *shown.metadata()]


def status_headers(status: str, text: str = "") -> Headers:
    """Build the trailers of a call that ended with a status."""
    return [("grpc-status", _NUMBERS[status]), ("grpc-message", quote(text[:_LONGEST_TEXT], safe=_PLAIN))]


def is_over(headers: Headers, method: Method[Any, Any]) -> bool:
    """Whether headers are the trailers of a call that ended with OK.

    Raises:
        LayerwiseError: the error that the trailers' status stands for, if the call failed.
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
    """Have a connected socket send small messages at once, and notice a peer that is gone."""
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
    """Encode the prefix of a message in parts."""
    return struct.pack(">BL", 0, sum(memoryview(part).nbytes for part in parts))


def message_length(prefix: Buffer, most: int) -> int:
    """Decode the length of the message behind a prefix.

    Raises:
        MalformedError: the message is compressed.
        TooLargeError: the message is longer than `most` bytes.
    """
    compressed, length = struct.unpack(">BL", prefix)
    if compressed:
        raise MalformedError("a message is compressed, which the data plane does not take")
    if length > most:
        raise TooLargeError(f"a message has {length} bytes; at most {most}")
    return int(length)


class Messages:
    """Messages of a call in both directions, for a thread at either end.

    Args:
        connection: on which the call is under way.
        most: bound of a received message, in bytes.
    """

    def __init__(self, connection: Connection, most: int = LARGEST_PIECE_MESSAGE_BYTES) -> None:
        self.connection = connection
        self._most = most

    def send(self, *parts: Buffer, last: bool = False, let_go: Callable[[], None] | None = None) -> None:
        """Send a message without a copy of the parts, as `End.send` does."""
        self.connection.send(prefix(parts), *parts, last=last, let_go=let_go)

    def read(self) -> bytearray | None:
        """Read the next message; None at the end of the messages."""
        length = self.length()
        return None if length is None else self.part(length)

    def length(self) -> int | None:
        """Read the length of the next message, whose parts follow; None at the end of the messages.

        Raises:
            MalformedError: the message is compressed.
            TooLargeError: the message is longer than its bound.
        """
        if not self.connection.more():
            return None
        return message_length(self.part(PREFIX_BYTES), self._most)

    def part(self, nbytes: int) -> bytearray:
        """Read the next `nbytes` bytes of the message under way; memory grows with the bytes that come."""
        found, filled = bytearray(min(nbytes, _FIRST_BYTES)), 0
        while True:
            with memoryview(found) as room:
                self.into(room[filled:])
            filled = len(found)
            if filled == nbytes:
                return found
            found.extend(bytes(min(filled, nbytes - filled)))

    def into(self, target: memoryview) -> None:
        """Read the next bytes of the message under way into a buffer.

        Raises:
            MalformedError: the stream ended within the message.
        """
        if not self.connection.into(target):
            raise MalformedError("the stream ended within a message")

    def land(self, assembly: Assembly, buffer: memoryview) -> slice | None:
        """Receive the next frame's piece in place in a shard's buffer; None at the end of the messages.

        Raises:
            MalformedError: the frame is not the piece that comes next.
            TooLargeError: the frame is larger than its bound.
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
