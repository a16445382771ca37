"""Tensors of boundary messages <-> bytes, in the dtype that `common.wire.precision` gives them."""

from __future__ import annotations

from functools import lru_cache

import torch

from common.errors import MalformedError
from common.shards.table import BOUNDARY_ITEMSIZES, Table, lay_out
from common.wire import precision
from common.wire.boundary import MESSAGES, Message
from common.wire.messages import BoundaryMessage

# Suffix of the scale that travels beside a tensor, behind the tensor's name.
_SCALE = ".scale"


@lru_cache(maxsize=64)
def _table(tensors: tuple[tuple[str, str, tuple[int, ...]], ...]) -> Table:
    return lay_out((*tensor, "buffer") for tensor in tensors)


def to_wire(message: Message, wire: str = "float32") -> BoundaryMessage:
    """Encode a message's tensors as `wire` (see `common.wire.precision`).

    A single tensor is not copied: the bytes are the memory of the tensor, on a CPU.
    """
    parts: dict[str, torch.Tensor] = {}
    for attribute, tensor in message.carried().items():
        name = message.tensors[attribute]
        parts[name], scale = precision.narrow(tensor, wire)
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
    # As bytes before numpy sees them, which has no bfloat16.
    return tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data


def from_wire(message: BoundaryMessage) -> Message:
    """Decode a message with float32 tensors in fresh memory.

    Raises:
        MalformedError: wrong tensors for the kind, or a kind without a message.
    """
    kind = MESSAGES.get(message.kind)
    if kind is None:
        raise MalformedError(f"{message.kind.name} is no message between layers")
    return kind(
        batch=message.batch,
        layer=message.layer,
        replica=message.replica,
        sender=message.sender,
        incarnation=message.incarnation,
        **(_tensors(message, kind) if kind.tensors else {}),
    )


def _tensors(message: BoundaryMessage, kind: type[Message]) -> dict[str, torch.Tensor]:
    _check(message, tuple(kind.tensors.values()))
    # Copied: within the message they need not be aligned.
    parts = {
        name: torch.from_numpy(array.copy()) for name, array in message.table.arrays(message.data).items()
    }
    given = {spec.name: getattr(torch, spec.dtype) for spec in message.table.tensors}
    return {
        attribute: precision.widen(parts[name].view(given[name]), parts.get(name + _SCALE))
        for attribute, name in kind.tensors.items()
        if name in parts
    }


def _check(message: BoundaryMessage, names: tuple[str, ...]) -> None:
    given = {spec.name: (spec.dtype, spec.shape) for spec in message.table.tensors}
    due = {}
    for name in names:
        if name in given and given[name][0] in BOUNDARY_ITEMSIZES:
            due[name] = given[name]
            scale = precision.scale_shape(*given[name])
            if scale is not None:
                due[name + _SCALE] = ("float32", scale)
    if names[0] not in due or given != due:
        raise MalformedError(
            f"{message.kind.name} has the tensors {given}; {' and perhaps '.join(names)} is expected, of "
            f"{', '.join(BOUNDARY_ITEMSIZES)}, with the scale that its dtype has"
        )
