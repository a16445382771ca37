"""Messages between neighbouring layers: one class a kind, described here and nowhere else.

Signals are torch's tensors, but nothing here loads torch: the master reads the descriptions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from common.signals.values import Signal, map_tensors
from common.wire.messages import BoundaryKind

if TYPE_CHECKING:
    from torch import Tensor


# (layer, replica).
Seat: TypeAlias = tuple[int, int]


class Direction(IntEnum):
    """Way of a message; the value is the step from the sender's layer to the receiver's."""

    UP = 1
    DOWN = -1


@dataclass(frozen=True, eq=False, slots=True)
class Message:
    """Message about one batch, from replica `sender` of a layer to replica `replica` of neighbour `layer`.

    Attributes:
        kind: number on the wire.
        direction: way through the layers; None: the network itself makes the message for a slave.
        slotted: whether a mailbox with slots may drop the message for a newer batch (see `common.slots`).
        signals: attribute of each signal -> name on the wire; the first signal is required.
        incarnation: lease of the sender of the batch's `Up`; repeated by answers.
    """

    kind: ClassVar[BoundaryKind]
    direction: ClassVar[Direction | None] = None
    slotted: ClassVar[bool] = False
    signals: ClassVar[dict[str, str]] = {}

    batch: int
    layer: int = field(default=0, kw_only=True)
    replica: int = field(default=0, kw_only=True)
    sender: int = field(default=0, kw_only=True)
    incarnation: int = field(default=0, kw_only=True)

    def carried(self) -> dict[str, Signal]:
        """Return the present signals by attribute."""
        found = {name: getattr(self, name) for name in self.signals}
        return {name: signal for name, signal in found.items() if signal is not None}

    def addressed(self, k: int, sender: int, receiver: int, incarnation: int) -> Self:
        """Return the message from replica `sender` of layer k to replica `receiver` of the neighbour."""
        assert self.direction is not None
        return replace(
            self, layer=k + self.direction, replica=receiver, sender=sender, incarnation=incarnation
        )

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the message with a function applied to each tensor."""
        changed: dict[str, Any] = {
            name: map_tensors(function, signal) for name, signal in self.carried().items()
        }
        return replace(self, **changed)


@dataclass(frozen=True, eq=False, slots=True)
class Up(Message):
    """Output h_k(b), of B examples, for layer k + 1."""

    kind = BoundaryKind.ACTIVATION
    direction = Direction.UP
    slotted = True
    signals = {"h": "tensor"}  # noqa: RUF012 - a ClassVar of the base

    h: Signal


@dataclass(frozen=True, eq=False, slots=True)
class Down(Message):
    """Gradient delta_k(b) of the float tensors of h_k(b), for layer k.

    With unlock `full` beside the input u of layer k + 1, likewise of floats alone.
    """

    kind = BoundaryKind.GRADIENT
    direction = Direction.DOWN
    slotted = True
    signals = {"delta": "tensor", "u": "input"}  # noqa: RUF012

    delta: Signal
    # None: delta was taken at the h_k(b) that layer k had sent.
    u: Signal | None = None


@dataclass(frozen=True, eq=False, slots=True)
class OutputGradient(Message):
    """Gradient dL/dp of the network's output, from layer K to a layer below K - 1.

    May be lost: the answer to the layer's `Up` carries the same. `incarnation` is the sender's own.
    """

    kind = BoundaryKind.OUTPUT_GRADIENT
    direction = Direction.DOWN
    signals = {"error": "tensor"}  # noqa: RUF012

    error: Signal

    def broadcast(self, seats: Iterable[Seat], sender: int, incarnation: int) -> Iterator[Self]:
        """Yield the message from replica `sender` of layer K to each seat, a layer and a replica."""
        for layer, replica in seats:
            yield replace(self, layer=layer, replica=replica, sender=sender, incarnation=incarnation)


@dataclass(frozen=True, eq=False, slots=True)
class Taken(Message):
    """Answer to an `Up` without a gradient: the unlock sends none, or nothing below learns."""

    kind = BoundaryKind.TAKEN
    direction = Direction.DOWN
    slotted = True


@dataclass(frozen=True, eq=False, slots=True)
class Lost(Message):
    """Answer to an `Up` whose gradient was lost and will never come."""

    kind = BoundaryKind.LOST
    direction = Direction.DOWN


@dataclass(frozen=True, eq=False, slots=True)
class End(Message):
    """End of a replica's batches, for layer k + 1; `batch` is the number of batches of the run."""

    kind = BoundaryKind.END
    direction = Direction.UP


@dataclass(frozen=True, eq=False, slots=True)
class Ended(Message):
    """Answer to `End`: layer k + 1 and all above are through, and will send nothing more."""

    kind = BoundaryKind.ENDED
    direction = Direction.DOWN


@dataclass(frozen=True, eq=False, slots=True)
class Ready(Message):
    """Notice that replica `sender` of the layer above is there (again) and needs all unanswered batches."""

    kind = BoundaryKind.PEER

    batch: int = 0


MESSAGES: dict[BoundaryKind, type[Message]] = {
    each.kind: each for each in (Up, Down, OutputGradient, Taken, Lost, End, Ended, Ready)
}
RISING = tuple(kind for kind, each in MESSAGES.items() if each.direction is Direction.UP)
FALLING = tuple(kind for kind, each in MESSAGES.items() if each.direction is Direction.DOWN)
SLOTTED = tuple(kind for kind, each in MESSAGES.items() if each.slotted)
