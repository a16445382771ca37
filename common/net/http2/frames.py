"""The frames of HTTP/2 (RFC 9113, section 6), and what goes wrong with them."""

from __future__ import annotations

import struct
from enum import IntEnum

from common.errors import UnreachableError

Headers = list[tuple[str, str]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# A chunk of a shard and its head, with room to spare, and less than any frame may have.
LARGEST_FRAME_BYTES = 2 << 20
# Of all frames but those of data, and of a block of headers in all.
MOST_CONTROL_BYTES = 16 << 10
LARGEST_WINDOW = 2**31 - 1
# How much may come before it is taken: TCP holds a sender back, and each connection has a reader of its own.
OWN_WINDOW = LARGEST_WINDOW
FIRST_WINDOW, FIRST_FRAME_BYTES = 65_535, 16_384


class Kind(IntEnum):
    """Of a frame (section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Why a stream or a connection ends (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


# Flags, and the keys of SETTINGS.
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, STREAMS, WINDOW, FRAME_BYTES, HEADER_BYTES = range(1, 7)


class BrokenError(UnreachableError):
    """A connection is of no more use."""


class ResetError(UnreachableError):
    """The peer gave up the stream, not the connection."""


class ProtocolError(BrokenError):
    """The peer does not keep to HTTP/2."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(f"a peer broke the rules of HTTP/2: {text}")
        self.code = code


def frame_head(kind: Kind, flags: int, stream: int, nbytes: int) -> bytes:
    """What comes before a frame's payload of so many bytes."""
    return struct.pack(">BHBBL", nbytes >> 16, nbytes & 0xFFFF, kind, flags, stream)


def frame(kind: Kind, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A small frame."""
    return frame_head(kind, flags, stream, len(payload)) + payload


def settings(values: dict[int, int]) -> bytes:
    """What an end asks of the other."""
    return frame(Kind.SETTINGS, payload=b"".join(struct.pack(">HL", *each) for each in values.items()))


def reset(stream: int, code: Code) -> bytes:
    """The end of a stream."""
    return frame(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def number(payload: bytes) -> int:
    """A payload that is one number."""
    if len(payload) != 4:
        raise ProtocolError(Code.FRAME_SIZE_ERROR, "a frame of another size")
    return int.from_bytes(payload, "big")


def unpadded(flags: int, payload: bytes) -> bytes:
    """The block of headers in a frame of them."""
    start = bool(flags & PADDED) + (5 if flags & PRIORITY else 0)
    padding = payload[0] if flags & PADDED and payload else 0
    if start + padding > len(payload):
        raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than headers")
    return payload[start : len(payload) - padding]


def window_update(stream: int, by: int) -> bytes:
    """So much more may be sent."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, by.to_bytes(4, "big"))
