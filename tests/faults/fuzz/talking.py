"""A client of frames: bytes to a port, and what comes back until the port is through with them."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import grpc
import hpack

from common.credentials import Credentials
from common.net.data.messages import call_headers
from common.net.http2 import frames
from common.net.http2.frames import Kind
from common.wire.methods import Method

HELLO = (frames.PREFACE, frames.settings({}))
PING = frames.frame(Kind.PING, payload=b"the last")
# A port ends a connection that has ended at the other side within so long: at once, or, where a window of the
# peer's is shut and an answer waits for it, when the peer counts as silent.
END_SECONDS = 60.0
# What a port still says to bytes that are no longer frames comes within so long.
QUIET_SECONDS = 0.05
_NAMES = {str(code.value[0]): code.name for code in grpc.StatusCode}


class StuckError(Exception):
    """A port that goes on with a connection whose peer is through."""


@dataclass
class Answer:
    """Answer to a connection.

    Attributes:
        statuses: of calls, by stream: name and text.
        messages: bodies of the answers, by stream.
        answered: the last PING was answered.
    """

    statuses: dict[int, tuple[str, str]] = field(default_factory=dict)
    messages: dict[int, list[bytes]] = field(default_factory=dict)
    answered: bool = False


@dataclass(frozen=True)
class Port:
    """Port of a process, and TLS towards it.

    Attributes:
        host, port: to connect to.
        context: certificates and trust; None: in the clear.
    """

    host: str
    port: int
    context: ssl.SSLContext | None = None

    def dial(self) -> socket.socket:
        """Connect, and shake hands."""
        stream = socket.create_connection((self.host, self.port), END_SECONDS)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(stream) if self.context else stream

    def say(self, data: bytes, *, streams: int = 0) -> bytes:
        """Send bytes on a connection of their own; returns what the port says until it ends the connection.

        Args:
            data: to send.
            streams: calls to wait for before this end is through: gRPC answers none to a peer that has
                ended; 0: this end is through at once.

        Raises:
            StuckError: the port does not end the connection.
        """
        heard = bytearray()
        with self.dial() as stream:
            # A port may end the connection before it has read all.
            with suppress(OSError):
                stream.sendall(data)
                if streams:
                    _hear(stream, heard, QUIET_SECONDS, streams)
                socket.socket.shutdown(stream, socket.SHUT_WR)
            if not _hear(stream, heard, END_SECONDS):
                raise StuckError(f"port {self.port} has not ended a connection within {END_SECONDS:g} s")
        return bytes(heard)


def _hear(stream: socket.socket, heard: bytearray, quiet: float, streams: int = 0) -> bool:
    """Read to the end, or until so many calls are over; False where nothing comes for `quiet` seconds."""
    stream.settimeout(quiet)
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        try:
            some = stream.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError:
            return True
        if not some:
            return True
        heard += some
        if streams and sum(_ends(*head) for *head, _ in parse(heard)) >= streams:
            return True
    return False


def _ends(kind: int, flags: int, _: int) -> bool:
    return kind == Kind.HEADERS and bool(flags & frames.END_STREAM)


def parse(heard: bytes | bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield kind, flags, stream and payload of every whole frame."""
    at = 0
    while len(heard) - at >= frames.HEAD_BYTES:
        nbytes, kind, flags, stream = frames.parse_head(bytes(heard[at : at + frames.HEAD_BYTES]))
        at += frames.HEAD_BYTES
        if len(heard) - at < nbytes:
            return
        yield kind, flags, stream, bytes(heard[at : at + nbytes])
        at += nbytes


def understand(heard: bytes) -> Answer:
    """Read statuses and messages out of frames."""
    answer, decoder, bodies = Answer(), hpack.Decoder(), dict[int, bytearray]()
    for kind, flags, stream, payload in parse(heard):
        if kind == Kind.HEADERS:
            try:
                found = {str(name): str(value) for name, value in decoder.decode(payload)}
            except (hpack.HPACKError, UnicodeDecodeError):
                return answer
            if "grpc-status" in found:
                name = _NAMES.get(found["grpc-status"], "none")
                answer.statuses[stream] = name, found.get("grpc-message", "")
        elif kind == Kind.DATA:
            bodies.setdefault(stream, bytearray()).extend(payload)
        elif kind == Kind.PING and flags & frames.ACK and payload == PING[frames.HEAD_BYTES :]:
            answer.answered = True
    answer.messages = {stream: list(_messages(body)) for stream, body in bodies.items()}
    return answer


def _messages(body: bytearray) -> Iterator[bytes]:
    at = 0
    while len(body) - at >= 5:
        _, nbytes = struct.unpack_from(">BL", body, at)
        yield bytes(body[at + 5 : at + 5 + nbytes])
        at += 5 + nbytes


def call(
    method: Method[Any, Any], messages: Sequence[bytes], shown: Credentials, stream: int, *, ends: bool = True
) -> list[bytes]:
    """Return the frames of a call: its headers, and a frame for each message."""
    parts = [struct.pack(">BL", 0, len(each)) + each for each in messages] or [b""]
    last = [frames.END_STREAM if ends and at == len(parts) - 1 else 0 for at in range(len(parts))]
    return [
        frames.frame(Kind.HEADERS, frames.END_HEADERS, stream, _headers(method.path, shown, method)),
        *(frames.frame(Kind.DATA, end, stream, part) for end, part in zip(last, parts, strict=True)),
    ]


@lru_cache(maxsize=256)
def _headers(path: str, shown: Credentials, method: Method[Any, Any]) -> bytes:
    del path
    block: bytes = hpack.Encoder().encode(
        [hpack.NeverIndexedHeaderTuple(*each) for each in call_headers(method, shown)], huffman=False
    )
    return block
