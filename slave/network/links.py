"""How boundary messages travel. Here: through the master's relay, as in the profile `light`.

Two streams, activations and gradients, open and break together. What was under way when they broke is not
kept here: the trainer sends again what is unanswered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import torch

from common.errors import LayerwiseError, MalformedError, UnreachableError
from common.net.backoff import Backoff
from common.net.data import streams
from common.net.data.streams import Parts, Stream
from common.net.tasks import run_until_one_ends
from common.shards.table import BOUNDARY_ITEMSIZES, Table, lay_out
from common.wire import precision
from common.wire.messages import RISING, BoundaryKind, BoundaryMessage
from common.wire.methods import EXCHANGE
from common.wire.payloads import decode_boundary, encode_boundary
from slave.network.mail import Arrivals, Inbox, Outgoing
from slave.training.decoupling import Message

Result = TypeVar("Result")

# What a stream may hold beside twice a window (a resend may come behind the first sending): END, LOST, PEER.
SPARE = 8


class Reopened:
    """The streams are open (again): send what is unanswered."""


@dataclass(frozen=True)
class Boundary:
    """What links must know of a layer's two boundaries.

    Attributes:
        senders: the replicas below that send activations to this slave.
        receivers: the replicas above that it sends activations to.
        window: the most batches that this slave, or one below, may have out.
        slots: of an unlock that may lose messages, so many slots that activations and gradients wait in (see
            `Slots`); None: nothing is lost.
        wire: what activations and gradients travel as.
    """

    senders: tuple[int, ...] = ()
    receivers: tuple[int, ...] = ()
    window: int = 1
    slots: int | None = None
    wire: str = "float32"

    @property
    def capacity(self) -> int:
        """The most messages that wait for or from one neighbour that keeps to its window."""
        return max(2 * self.window, self.slots or 0) + SPARE


class Links(Protocol):
    """The messages of one lease, to and from the neighbouring layers: a profile."""

    def send(self, message: Message, encoded: Parts) -> None:
        """Hand a message over, and its encoding; on the event loop's thread.

        One to a neighbour that is not there is dropped: the trainer is told when it is.
        """

    async def run(self) -> None:
        """Exchange messages until cancelled.

        Raises:
            LayerwiseError: the lease cannot go on.
        """


# Gradients first: answers must find their way before anything asks for them.
_STREAMS = (BoundaryKind.GRADIENTS, BoundaryKind.ACTIVATIONS)


class LightLinks:
    """Messages of one lease, through the master.

    Args:
        locate: says where the master takes streams: host and port.
        incarnation: of the lease.
        inbox: takes each `Message` that arrives, and `Reopened`.
        backoff: for a master that is away.
        slots: see `Boundary`.
    """

    def __init__(
        self,
        locate: Callable[[], Awaitable[tuple[str, int]]],
        incarnation: int,
        inbox: Inbox,
        backoff: Backoff,
        slots: int | None = None,
    ) -> None:
        self._locate = locate
        self._incarnation = incarnation
        self._inbox = inbox
        self._backoff = backoff
        self._outgoing = {kind: Outgoing(slots) for kind in _STREAMS}
        self._arrivals = {kind: Arrivals(inbox, slots) for kind in _STREAMS}

    def send(self, message: Message, encoded: Parts) -> None:
        """Hand a message over, and its encoding; on the event loop's thread."""
        stream = BoundaryKind.ACTIVATIONS if message.kind in RISING else BoundaryKind.GRADIENTS
        self._outgoing[stream].put(message, encoded)

    async def run(self) -> None:
        """Keep both streams open until cancelled.

        Raises:
            LayerwiseError: the lease has passed to another, or the master has been away for too long.
        """
        while True:
            error: LayerwiseError = UnreachableError("the master closed the streams")
            try:
                async with AsyncExitStack() as open_streams:
                    await self._exchange(open_streams)
            except LayerwiseError as failure:
                error = failure
            await asyncio.sleep(self._backoff.delay_after(error))

    async def _exchange(self, open_streams: AsyncExitStack) -> None:
        """Open the streams, each over a connection of its own, and use them until one ends."""
        for outgoing in self._outgoing.values():
            outgoing.clear()
        host, port = await self._locate()
        calls = {}
        for kind in _STREAMS:
            call = await open_streams.enter_async_context(streams.opened(host, port, EXCHANGE))
            hello = BoundaryMessage(kind, 0, incarnation=self._incarnation)
            await call.write(encode_boundary(hello))
            if await call.read() is None:
                return
            calls[kind] = call
        self._backoff.reset()
        self._inbox.put(Reopened())
        await run_until_one_ends(
            *(self._receive(call, self._arrivals[kind]) for kind, call in calls.items()),
            *(transmit(call, self._outgoing[kind]) for kind, call in calls.items()),
        )

    async def _receive(self, call: Stream, arrivals: Arrivals) -> None:
        while (encoded := await call.read()) is not None:
            arrivals.put(from_wire(decode_boundary(encoded)))


async def transmit(call: Stream, outgoing: Outgoing) -> None:
    """Write what waits to a stream, until it is closed."""
    while (encoded := await outgoing.get()) is not None:
        await call.write(*encoded)


# Of a message's tensors; one that travels with a scale has it beside it, under its name and this.
_NAMES = ("tensor", "input")
_SCALE = ".scale"


@lru_cache(maxsize=64)
def _table(tensors: tuple[tuple[str, str, tuple[int, ...]], ...]) -> Table:
    return lay_out((*tensor, "buffer") for tensor in tensors)


def to_wire(message: Message, wire: str = "float32") -> BoundaryMessage:
    """A trainer's message with its tensors as bytes, to travel as `wire` (see `common.wire.precision`).

    A tensor that goes alone is not copied: these are its own memory, on a CPU.
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
    # As bytes before numpy sees it, which has no bfloat16.
    return tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data


def from_wire(message: BoundaryMessage) -> Message:
    """A message for the trainer, its tensors float32 in memory of its own.

    Raises:
        MalformedError: it has other tensors than its kind has.
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
    # Copied: within the message they need not be aligned.
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
