"""Signals of boundary messages <-> bytes, in the dtype that `common.wire.precision` gives each tensor.

A plain signal is one tensor, with the signal's name on the wire; a named tensor of a signal is called
"SIGNAL/NAME".
"""

from __future__ import annotations

from functools import lru_cache
from textwrap import shorten

import torch

from common.errors import MalformedError
from common.shards.table import BOUNDARY_ITEMSIZES, WIRE_ITEMSIZES, Table, lay_out
from common.signals.forms import PLAIN, is_name
from common.signals.values import Signal, join, name_dtype, split
from common.wire import precision
from common.wire.boundary import MESSAGES, Message
from common.wire.messages import BoundaryMessage

# Suffix of the scale that travels beside a tensor, behind the tensor's name; and separator of the names of a
# signal and of a tensor.
_SCALE, _OF = ".scale", "/"


@lru_cache(maxsize=64)
def _table(tensors: tuple[tuple[str, str, tuple[int, ...]], ...]) -> Table:
    return lay_out((*tensor, "buffer") for tensor in tensors)


def to_wire(message: Message, wire: str = "float32") -> BoundaryMessage:
    """Encode a message's signals as `wire` (see `common.wire.precision`).

    A single tensor is not copied: the bytes are the memory of the tensor, on a CPU.
    """
    parts: dict[str, torch.Tensor] = {}
    for attribute, signal in message.carried().items():
        for key, tensor in split(signal).items():
            name = _wire_name(message.signals[attribute], key)
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
    table = _table(tuple((name, name_dtype(part), tuple(part.shape)) for name, part in parts.items()))
    if len(parts) == 1:
        (part,) = parts.values()
        return table, _bytes_of(part)
    data = memoryview(bytearray(table.nbytes))
    for spec in table.tensors:
        data[spec.offset : spec.offset + spec.nbytes] = _bytes_of(parts[spec.name])
    return table, data


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    # As bytes before numpy sees them, which has no bfloat16.
    return tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data


def _wire_name(signal: str, tensor: str) -> str:
    return signal if tensor == PLAIN else f"{signal}{_OF}{tensor}"


def from_wire(message: BoundaryMessage) -> Message:
    """Decode a message, with float32 and integer tensors in fresh memory.

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
        **(_signals(message, kind) if kind.signals else {}),
    )


def _signals(message: BoundaryMessage, kind: type[Message]) -> dict[str, Signal]:
    names = _group(message, tuple(kind.signals.values()))
    # Copied: within the message they need not be aligned.
    parts = {
        name: torch.from_numpy(array.copy()) for name, array in message.table.arrays(message.data).items()
    }
    dtypes = {spec.name: getattr(torch, spec.dtype) for spec in message.table.tensors}

    def decode(name: str) -> torch.Tensor:
        if dtypes[name] is torch.bool and bool((parts[name].view(torch.uint8) > 1).any()):
            raise MalformedError(f"{message.kind.name} has bytes other than 0 and 1 in {name}, a bool tensor")
        return precision.widen(parts[name].view(dtypes[name]), parts.get(name + _SCALE))

    return {
        attribute: join({key: decode(name) for key, name in names[wire].items()})
        for attribute, wire in kind.signals.items()
        if names[wire]
    }


def _group(message: BoundaryMessage, signals: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Return by signal the names of its tensors on the wire, by their own names.

    Raises:
        MalformedError: a tensor of no signal, a plain signal with named tensors, a scale that is missing or
            too much, or no tensor of the first signal.
    """
    given = {spec.name: (spec.dtype, spec.shape) for spec in message.table.tensors}
    names: dict[str, dict[str, str]] = {signal: {} for signal in signals}
    due = {}
    for name in given:
        signal, separator, key = name.partition(_OF)
        # The tensor of a plain signal carries gradients; integers have names.
        dtypes = BOUNDARY_ITEMSIZES if separator else WIRE_ITEMSIZES
        if signal not in names or given[name][0] not in dtypes or (separator and not is_name(key)):
            continue
        names[signal][key] = name
        due[name] = given[name]
        scale = precision.scale_shape(*given[name])
        if scale is not None:
            due[name + _SCALE] = ("float32", scale)
    mixed = any(PLAIN in keys and len(keys) > 1 for keys in names.values())
    if mixed or not names[signals[0]] or given != due:
        # A peer may have made the names long.
        shown = shorten(str(given), 1000)
        raise MalformedError(
            f"{message.kind.name} has the tensors {shown}; {' and perhaps '.join(signals)} is expected, or "
            f"named tensors of each as {signals[0]}{_OF}NAME, of {', '.join(BOUNDARY_ITEMSIZES)}, with the "
            "scale that its dtype has"
        )
    return names
