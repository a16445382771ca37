"""Frames of HTTP/2 (RFC 9113, section 6) and the errors of a connection."""

from __future__ import annotations

import struct
from enum import IntEnum

from common.errors import UnreachableError

Headers = list[tuple[str, str]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
# Bound of a DATA frame: fits a chunk of a shard and its head.
LARGEST_FRAME_BYTES = 2 << 20
# Bound of every frame but DATA, and of a whole block of headers.
MOST_CONTROL_BYTES = 16 << 10
LARGEST_WINDOW = 2**31 - 1
# The window announced to peers: as wide as can be, since TCP holds back a sender and each connection has one
# reader.
OWN_WINDOW = LARGEST_WINDOW
FIRST_WINDOW, FIRST_FRAME_BYTES = 65_535, 16_384


class Kind(IntEnum):
    """Type of a frame (section 6)."""

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
    """Reason for the end of a stream or a connection (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12


# Flags, and the keys of SETTINGS.
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, STREAMS, WINDOW, FRAME_BYTES, HEADER_BYTES = range(1, 7)


class BrokenError(UnreachableError):
    """A connection that can no longer be used."""


class ResetError(UnreachableError):
    """A stream that the peer gave up; the connection stays usable."""


class ProtocolError(BrokenError):
    """A violation of HTTP/2 by the peer."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(f"a peer broke the rules of HTTP/2: {text}")
        self.code = code


def frame_head(kind: Kind, flags: int, stream: int, nbytes: int) -> bytes:
    """Encode the head of a frame with a payload of `nbytes` bytes."""
    return struct.pack(">BHBBL", nbytes >> 16, nbytes & 0xFFFF, kind, flags, stream)


def parse_head(head: bytes) -> tuple[int, int, int, int]:
    """Decode a frame's head into length, kind, flags and stream."""
    high, low, kind, flags, stream = struct.unpack(">BHBBL", head)
    return high << 16 | low, kind, flags, stream & LARGEST_WINDOW


def frame(kind: Kind, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Encode a small frame."""
    return frame_head(kind, flags, stream, len(payload)) + payload


def settings(values: dict[int, int]) -> bytes:
    """Encode a SETTINGS frame."""
    return frame(Kind.SETTINGS, payload=b"".join(struct.pack(">HL", *each) for each in values.items()))


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Decode the (key, value) pairs of a SETTINGS frame.

    Raises:
        ProtocolError: the payload is no sequence of pairs.
    """
    if len(payload) % 6:
        raise ProtocolError(Code.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    return list(struct.iter_unpack(">HL", payload))


def reset(stream: int, code: Code) -> bytes:
    """Encode RST_STREAM."""
    return frame(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int, code: Code, text: str) -> bytes:
    """Encode GOAWAY with a reason of at most 200 bytes."""
    return frame(Kind.GOAWAY, payload=struct.pack(">LL", last_stream, code) + text.encode()[:200])


def goaway_code(payload: bytes) -> int:
    """Decode the reason in the payload of GOAWAY."""
    return int.from_bytes(payload[4:8], "big")


def number(payload: bytes) -> int:
    """Decode a payload of one number.

    Raises:
        ProtocolError: the payload has not four bytes.
    """
    if len(payload) != 4:
        raise ProtocolError(Code.FRAME_SIZE_ERROR, f"a frame of {len(payload)} bytes, not 4")
    return int.from_bytes(payload, "big")


def unpadded(flags: int, payload: bytes) -> bytes:
    """Cut padding and priority off a HEADERS frame.

    Raises:
        ProtocolError: the padding is longer than the frame.
    """
    start = bool(flags & PADDED) + (5 if flags & PRIORITY else 0)
    padding = payload[0] if flags & PADDED and payload else 0
    if start + padding > len(payload):
        raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than headers")
    return payload[start : len(payload) - padding]


def window_update(stream: int, by: int) -> bytes:
    """Encode WINDOW_UPDATE: the peer may send `by` bytes more."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, by.to_bytes(4, "big"))
