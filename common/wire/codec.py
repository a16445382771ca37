"""Conversion of message dataclasses to protobuf's generated classes and back, by equal field names."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Sized
from enum import IntEnum
from functools import lru_cache
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from common import bounds
from common.errors import MalformedError, TooLargeError
from common.shards import pushes
from common.shards.table import Table, TensorSpec, check_shape
from common.wire import messages, ranges, stores
from protos import layerwise_pb2 as pb

Value = TypeVar("Value")

# Tables recur, so small ones are cached. Larger ones are parsed anew: a peer could fill the memory with them.
MOST_REMEMBERED_BYTES = 8 << 10


def _class_of(kind: type) -> type[Message]:
    generated: type[Message] = getattr(pb, kind.__name__)
    return generated


def to_proto(value: Any) -> Message:
    """Convert a dataclass to the generated message."""
    readers, plain = _readers(typing.cast(Any, type(value)), ())
    message = _class_of(type(value))(**{name: getattr(value, name) for name in plain})
    for name, _, _ in readers:
        _put(message, name, getattr(value, name))
    return message


def encode_plain(value: Any, names: tuple[str, ...]) -> bytes:
    """Encode named fields of a dataclass, numbers or strings."""
    fields = {name: field for name in names if (field := getattr(value, name))}
    return _class_of(type(value))(**fields).SerializeToString() if fields else b""


def _put(message: Message, name: str, value: Any) -> None:
    if isinstance(value, dict):
        getattr(message, name).update(value)
    elif isinstance(value, list | tuple):
        repeated = getattr(message, name)
        repeated.extend([to_proto(each) if dataclasses.is_dataclass(each) else each for each in value])
    elif isinstance(value, Table):
        getattr(message, name).CopyFrom(_table_to_proto(value))
    elif dataclasses.is_dataclass(value):
        getattr(message, name).CopyFrom(to_proto(value))
    elif value is not None:
        setattr(message, name, value)


@lru_cache(maxsize=256)
def _table_to_proto(table: Table) -> Message:
    return to_proto(table)


@lru_cache(maxsize=256)
def encode_table(table: Table) -> bytes:
    """Encode a table as bytes."""
    return to_proto(table).SerializeToString()


def decode_table(encoded: bytes) -> Table:
    """Decode a table from bytes, without a check of the layout.

    Raises:
        MalformedError: the bytes are not a table.
        TooLargeError: more tensors, dimensions or characters than a table may have.
    """
    return _cached_table(encoded) if len(encoded) <= MOST_REMEMBERED_BYTES else _table_of(encoded)


def _table_of(encoded: bytes) -> Table:
    message = parse(pb.Table, encoded)
    _check_table_sizes(message)
    specs = (TensorSpec(t.name, t.dtype, tuple(t.shape), t.offset, t.kind) for t in message.tensors)
    return Table(tuple(specs), message.nbytes)


def _check_table_sizes(message: Any) -> None:
    """Check a table before Python copies its numbers: a shape may have a million dimensions."""
    if len(message.tensors) > bounds.MOST_TENSORS:
        raise TooLargeError(f"a table of {len(message.tensors)} tensors; at most {bounds.MOST_TENSORS}")
    for tensor in message.tensors:
        if max(len(tensor.name), len(tensor.dtype), len(tensor.kind)) > bounds.MOST_TEXT:
            raise TooLargeError(f"a table has a text of over {bounds.MOST_TEXT} characters")
        check_shape(tensor.name, tensor.shape)


_cached_table = lru_cache(maxsize=128)(_table_of)


Reader = Callable[[Any], Any]
_PLAIN = (int, float, str, bool)


@lru_cache(maxsize=256)
def _reader(annotation: Any) -> Reader:
    """Return the function that converts a generated field's value to the annotation's type."""
    if isinstance(annotation, types.UnionType):
        (annotation,) = (a for a in typing.get_args(annotation) if a is not types.NoneType)
    if annotation is Table:
        return lambda value: decode_table(value.SerializeToString(deterministic=True))
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return lambda value: from_proto(annotation, value)
    if typing.get_origin(annotation) is dict:
        return dict
    if typing.get_origin(annotation) is list:
        item = _reader(typing.get_args(annotation)[0])
        return lambda value: [item(each) for each in value]
    if isinstance(annotation, type) and issubclass(annotation, IntEnum):
        return _enum_reader(annotation)
    return lambda value: value


def _enum_reader(kind: type[IntEnum]) -> Reader:
    members = {member.value: member for member in kind}

    def read(value: int) -> IntEnum:
        try:
            return members[value]
        except KeyError:
            raise MalformedError(f"{value} is not a {kind.__name__}") from None

    return read


@lru_cache(maxsize=256)
def _readers(
    kind: Any, without: tuple[str, ...]
) -> tuple[tuple[tuple[str, Reader, bool], ...], tuple[str, ...]]:
    """Return the fields of a message that need conversion, and those that are copied."""
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.name not in without]
    plain = tuple(name for name in names if hints[name] in _PLAIN)
    read = (
        (name, _reader(hints[name]), isinstance(hints[name], types.UnionType))
        for name in names
        if name not in plain
    )
    return tuple(read), plain


def from_proto(kind: type[Value], message: Message, **fields: Any) -> Value:
    """Convert a generated message to the dataclass; `fields` have been decoded by the caller.

    Raises:
        MalformedError: a number is out of its range.
    """
    readers, plain = _readers(typing.cast(Any, kind), tuple(fields))
    for name in plain:
        fields[name] = getattr(message, name)
    for name, read, optional in readers:
        fields[name] = None if optional and not message.HasField(name) else read(getattr(message, name))
    return ranges.check(kind(**fields))


def encode(value: Any) -> bytes:
    """Encode a message without a payload as bytes."""
    return to_proto(value).SerializeToString()


def decoder(kind: type[Value]) -> Callable[[bytes], Value]:
    """Return a decoder for messages of class `kind`.

    Raises:
        MalformedError: (the returned function) the bytes are not such a message.
    """
    generated = _class_of(kind)

    def decode(data: bytes) -> Value:
        return from_proto(kind, parse(generated, data))

    return decode


def parse(generated: type[Message], data: bytes) -> Any:
    """Parse a generated message from bytes.

    Raises:
        MalformedError: the bytes are not such a message.
        TooLargeError: a text, a map or a repeated field is larger than `common.bounds` allows.
    """
    try:
        message = generated.FromString(data)
    except DecodeError as error:
        raise MalformedError(f"a {generated.DESCRIPTOR.name} cannot be read: {error}") from None
    # A short message has neither long texts nor many entries.
    if len(data) > bounds.MOST_TEXT and generated is not pb.Table:
        _check_sizes(message)
    return message


def _check_sizes(message: Message) -> None:
    """Check texts, maps and repeated fields, of messages within the message too; tables are checked apart."""
    kind = message.DESCRIPTOR.name
    for field, value in message.ListFields():
        if isinstance(value, str):
            most = bounds.LONG_TEXTS.get((kind, field.name), bounds.MOST_TEXT)
            if len(value) > most:
                raise TooLargeError(f"{kind}.{field.name} has {len(value)} characters; at most {most}")
        elif isinstance(value, Message):
            if not isinstance(value, pb.Table):
                _check_sizes(value)
        elif isinstance(value, Sized):
            _check_entries(f"{kind}.{field.name}", value)


def _check_entries(name: str, entries: Any) -> None:
    if isinstance(entries, bytes):
        return
    if len(entries) > bounds.MOST_ENTRIES:
        raise TooLargeError(f"{name} has {len(entries)} entries; at most {bounds.MOST_ENTRIES}")
    for entry in entries:
        if isinstance(entry, Message):
            _check_sizes(entry)
        elif isinstance(entry, str) and len(entry) > bounds.MOST_TEXT:
            raise TooLargeError(f"{name} has a text of {len(entry)} characters; at most {bounds.MOST_TEXT}")


def _check_complete() -> None:
    """Check that the dataclasses and the generated code have equal fields."""
    named = {**vars(messages), **vars(pushes), **vars(stores)}
    kinds = [kind for kind in named.values() if isinstance(kind, type)]
    for kind in [*kinds, Table, TensorSpec]:
        if dataclasses.is_dataclass(kind):
            ours = {field.name for field in dataclasses.fields(kind)}
            theirs = set(_class_of(kind).DESCRIPTOR.fields_by_name)
            if ours != theirs:
                raise AssertionError(f"{kind.__name__}: {sorted(ours ^ theirs)} differ from protos/")


_check_complete()
