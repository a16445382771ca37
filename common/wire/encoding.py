"""Protobuf's encoding by hand, for messages with one large field.

Generated Python code copies a payload several times. Here protobuf encodes the small fields of a message, and
tag, length and payload of the large bytes field follow; decoding looks for the large field alone. The bytes
are exactly those of protobuf, so generated code of any language reads and writes them.
"""

from __future__ import annotations

from common.bounds import MOST_FIELDS, MOST_SMALL_BYTES
from common.errors import MalformedError, TooLargeError
from common.shards.pushes import Buffer

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


_ONE_BYTE = [bytes((number,)) for number in range(0x80)]


def varint(number: int) -> bytes:
    """Encode a non-negative number as a base-128 varint."""
    if number < 0x80:
        return _ONE_BYTE[number]
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field_head(field: int, nbytes: int) -> bytes:
    """Encode the tag and the length of a field of `nbytes` bytes."""
    return varint(field << 3 | _LENGTH) + varint(nbytes)


def split_fields(message: Buffer, wanted: tuple[int, ...]) -> tuple[bytes, dict[int, list[memoryview]]]:
    """Cut fields of bytes or messages out of an encoding: the rest, and views of each field's contents.

    Args:
        message: the encoding.
        wanted: numbers of the fields; the first is the payload, of any size.

    Raises:
        MalformedError: the message is not protobuf's encoding.
        TooLargeError: the rest is larger than MOST_SMALL_BYTES.
    """
    view = memoryview(message)
    found: dict[int, list[memoryview]] = {}
    small: list[memoryview] = []
    position, rest, end, fields, beside = 0, 0, len(view), 0, 0
    while position < end:
        start, fields = position, fields + 1
        if fields > MOST_FIELDS:
            raise MalformedError(f"a message has more than {MOST_FIELDS} fields")
        tag, position = read_varint(view, position)
        begin, position = _content(view, tag & 7, position)
        if position > end:
            raise MalformedError("a message ends within one of its fields")
        field = tag >> 3 if tag & 7 == _LENGTH else 0
        if field != wanted[0]:
            beside += position - start
            if beside > MOST_SMALL_BYTES:
                raise TooLargeError(f"a message has more than {MOST_SMALL_BYTES} bytes beside its payload")
        if field in wanted:
            small.append(view[rest:start])
            found.setdefault(field, []).append(view[begin:position])
            rest = position
    small.append(view[rest:])
    return b"".join(small), found


def _content(view: memoryview, wire_type: int, position: int) -> tuple[int, int]:
    """Find the start and the end of a field's content."""
    if wire_type == _VARINT:
        return position, read_varint(view, position)[1]
    if wire_type == _LENGTH:
        length, position = read_varint(view, position)
        return position, position + length
    if wire_type in (_FIXED64, _FIXED32):
        return position, position + (8 if wire_type == _FIXED64 else 4)
    raise MalformedError(f"a message has a field of wire type {wire_type}, which no message here has")


def read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """Decode the number at a position, and return its value and end.

    Raises:
        MalformedError: the bytes are no number.
    """
    try:
        number = view[position]
        if number < 0x80:
            return number, position + 1
        number &= 0x7F
        for shift in range(7, 70, 7):
            position += 1
            byte = view[position]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number, position + 1
    except IndexError:
        raise MalformedError("a message ends within a number") from None
    raise MalformedError("a message has a number of more than ten bytes")
