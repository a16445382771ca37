"""Messages to protobuf's generated classes and back, field by field of the same name."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from common import messages
from common.errors import MalformedError
from common.table import Table, TensorSpec
from protos import layerwise_pb2 as pb

Value = TypeVar("Value")


def _class_of(kind: type) -> type[Message]:
    generated: type[Message] = getattr(pb, kind.__name__)
    return generated


def to_proto(value: Any, *, without: str = "") -> Message:
    """The generated message of a dataclass, less the field `without`."""
    message = _class_of(type(value))()
    for field in dataclasses.fields(value):
        if field.name != without:
            _put(message, field.name, getattr(value, field.name))
    return message


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
def _table_from_bytes(encoded: bytes) -> Table:
    message = pb.Table.FromString(encoded)
    specs = (
        TensorSpec(t.name, t.dtype, tuple(t.shape), t.offset, t.kind)  # type: ignore[arg-type]
        for t in message.tensors
    )
    return Table(tuple(specs), message.nbytes)


Reader = Callable[[Any], Any]


@lru_cache(maxsize=256)
def _reader(annotation: Any) -> Reader:
    """How a generated field's value becomes the annotation's."""
    if isinstance(annotation, types.UnionType):
        (annotation,) = (a for a in typing.get_args(annotation) if a is not types.NoneType)
    if annotation is Table:
        return lambda value: _table_from_bytes(value.SerializeToString(deterministic=True))
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return lambda value: from_proto(annotation, value)
    if typing.get_origin(annotation) is dict:
        return dict
    if typing.get_origin(annotation) is list:
        item = _reader(typing.get_args(annotation)[0])
        return lambda value: [item(each) for each in value]
    if isinstance(annotation, type) and issubclass(annotation, IntEnum):
        return _known(annotation)
    return lambda value: value


def _known(kind: type[IntEnum]) -> Reader:
    def read(value: int) -> IntEnum:
        try:
            return kind(value)
        except ValueError:
            raise MalformedError(f"{value} is no {kind.__name__}") from None

    return read


@lru_cache(maxsize=256)
def _readers(kind: Any, without: str) -> tuple[tuple[str, Reader, bool], ...]:
    hints = typing.get_type_hints(kind)
    return tuple(
        (field.name, _reader(hints[field.name]), isinstance(hints[field.name], types.UnionType))
        for field in dataclasses.fields(kind)
        if field.name != without
    )


def from_proto(kind: type[Value], message: Message, *, without: str = "", **given: Any) -> Value:
    """The dataclass of a generated message; `given` are fields that are read otherwise."""
    values = {
        name: None if optional and not message.HasField(name) else read(getattr(message, name))
        for name, read, optional in _readers(typing.cast(Any, kind), without)
    }
    return kind(**values, **given)


def encode(value: Any) -> bytes:
    """A message without a payload as bytes."""
    return to_proto(value).SerializeToString()


def decoder(kind: type[Value]) -> Callable[[bytes], Value]:
    """Reads such a message.

    Raises:
        MalformedError: (the decoder) the bytes are not such a message.
    """
    generated = _class_of(kind)

    def decode(data: bytes) -> Value:
        return from_proto(kind, parse(generated, data))

    return decode


def parse(generated: type[Message], data: bytes) -> Any:
    """A generated message from bytes."""
    try:
        return generated.FromString(data)
    except DecodeError as error:
        raise MalformedError(f"a {generated.DESCRIPTOR.name} cannot be read: {error}") from None


def _check_complete() -> None:
    """Every field of every message here has its counterpart in the generated code, and vice versa."""
    kinds = [kind for kind in vars(messages).values() if isinstance(kind, type)]
    for kind in [*kinds, Table, TensorSpec]:
        if dataclasses.is_dataclass(kind):
            ours = {field.name for field in dataclasses.fields(kind)}
            theirs = set(_class_of(kind).DESCRIPTOR.fields_by_name)
            if ours != theirs:
                raise AssertionError(f"{kind.__name__}: {sorted(ours ^ theirs)} differ from protos/")


_check_complete()
