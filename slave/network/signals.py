"""Conversion of the trainer's messages to boundary messages and back."""

from __future__ import annotations

from functools import lru_cache

import torch

from common.errors import MalformedError
from common.shards.table import BOUNDARY_ITEMSIZES, Table, lay_out
from common.wire import precision
from common.wire.messages import BoundaryKind, BoundaryMessage
from slave.training.decoupling import Message

# Names of a message's tensors; the scale of a tensor has the tensor's name with a suffix.
_NAMES = ("tensor", "input")
_SCALE = ".scale"


@lru_cache(maxsize=64)
def _table(tensors: tuple[tuple[str, str, tuple[int, ...]], ...]) -> Table:
    return lay_out((*tensor, "buffer") for tensor in tensors)


def to_wire(message: Message, wire: str = "float32") -> BoundaryMessage:
    """Convert a trainer's message, with tensors in the dtype `wire` (see `common.wire.precision`).

    A single tensor in a CPU's memory is not copied.
    """
    parts: dict[str, torch.Tensor] = {}
    for name, tensor in zip(_NAMES, (message.tensor, message.input), strict=True):
        if tensor is not None:
            parts[name], scale = precision.narrowed(tensor, wire)
            if scale is not None:
                parts[name + _SCALE] = scale
    table, data = _laid_out(parts)
    return BoundaryMessage(
        message.kind,
        message.layer,
        message.replica,
        message.batch,
        message.incarnation,
        table=table,
        data=data,
        sender=message.sender,
    )


def _laid_out(parts: dict[str, torch.Tensor]) -> tuple[Table, memoryview]:
    table = _table(tuple((name, _dtype(part), tuple(part.shape)) for name, part in parts.items()))
    if len(parts) == 1:
        (part,) = parts.values()
        return table, _bytes_of(part)
    data = memoryview(bytearray(table.nbytes))
    for spec in table.tensors:
        data[spec.offset : spec.offset + spec.nbytes] = _bytes_of(parts[spec.name])
    return table, data


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    # Bytes come first: numpy has no bfloat16.
    return tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data


def from_wire(message: BoundaryMessage) -> Message:
    """Convert a boundary message for the trainer, with float32 tensors in memory of their own.

    Raises:
        MalformedError: the tensors are not those of the message's kind.
    """
    tensors = _tensors(message) if message.kind in (BoundaryKind.ACTIVATION, BoundaryKind.GRADIENT) else {}
    return Message(
        message.kind,
        message.layer,
        message.batch,
        message.incarnation,
        tensors.get("tensor"),
        message.replica,
        message.sender,
        tensors.get("input"),
    )


def _tensors(message: BoundaryMessage) -> dict[str, torch.Tensor]:
    _check(message)
    # Copied: tensors within a message need not be aligned.
    parts = {
        name: torch.from_numpy(array.copy()) for name, array in message.table.arrays(message.data).items()
    }
    given = {spec.name: getattr(torch, spec.dtype) for spec in message.table.tensors}
    return {
        name: precision.widened(parts[name].view(given[name]), parts.get(name + _SCALE))
        for name in _NAMES
        if name in parts
    }


def _check(message: BoundaryMessage) -> None:
    given = {spec.name: (spec.dtype, spec.shape) for spec in message.table.tensors}
    due = {}
    for name in _NAMES:
        if name in given:
            due[name] = given[name]
            scale = precision.scale_shape(*given[name])
            if scale is not None:
                due[name + _SCALE] = ("float32", scale)
    if (
        "tensor" not in given
        or given != due
        or any(dtype not in BOUNDARY_ITEMSIZES for dtype, _ in due.values())
    ):
        raise MalformedError(
            f"{message.kind.name} has the tensors {given}; one is expected, perhaps with its input, of "
            f"{', '.join(BOUNDARY_ITEMSIZES)}, with the scale that its dtype has"
        )
