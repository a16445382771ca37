"""Protobuf's own encoding, by hand, for the one field that is large.

Generated Python code copies a payload several times. Here a message that ends in a large bytes field is
written as its small fields by protobuf, then tag, length and payload; read by looking for that field alone.
Both are exactly protobuf's encoding: any language's generated code reads and writes the same bytes.
"""

from __future__ import annotations

from common.errors import MalformedError, TooLargeError
from common.messages import Buffer

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# What a message may have beside its payload: a header with the table of a large layer, and what later
# versions add. More would keep the process busy here for as long as its sender likes.
MOST_FIELDS = 1000
MOST_SMALL_BYTES = 1 << 20


def varint(number: int) -> bytes:
    """A non-negative number as a base-128 varint."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def join_payload(small: bytes, field: int, payload: Buffer) -> bytes:
    """A message's encoding from its small fields, already encoded, and a bytes field; copies that once."""
    view = memoryview(payload)
    if not view.nbytes:
        return small
    return b"".join((small, varint(field << 3 | _LENGTH), varint(view.nbytes), view.cast("B")))


def split_payload(message: Buffer, field: int) -> tuple[bytes, memoryview]:
    """The encoding less a bytes field, and a view of that field's payload (empty if absent). No copy of it.

    Raises:
        MalformedError: the message is not protobuf's encoding.
        TooLargeError: what is left without the payload is larger than any message here.
    """
    view = memoryview(message)
    small = bytearray()
    payload = view[:0]
    position, end, fields = 0, len(view), 0
    while position < end:
        start, fields = position, fields + 1
        if fields > MOST_FIELDS:
            raise MalformedError(f"a message has more than {MOST_FIELDS} fields")
        tag, position = _read_varint(view, position)
        wire_type = tag & 7
        if wire_type == _LENGTH:
            length, position = _read_varint(view, position)
            begin, position = position, position + length
            if position <= end and tag >> 3 == field:
                payload = view[begin:position]
                continue
        elif wire_type == _VARINT:
            _, position = _read_varint(view, position)
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise MalformedError(f"a message has a field of wire type {wire_type}, which no message here has")
        if position > end:
            raise MalformedError("a message ends within one of its fields")
        if len(small) + position - start > MOST_SMALL_BYTES:
            raise TooLargeError(f"a message has more than {MOST_SMALL_BYTES} bytes beside its payload")
        small += view[start:position]
    return bytes(small), payload


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise MalformedError("a message ends within a number")
        byte = view[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise MalformedError("a message has a number of more than ten bytes")
