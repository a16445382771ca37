"""How boundary messages travel. Here: through the master's relay, as in the profile `light`.

Two streams, activations and gradients, open and break together. What was under way when they broke is not
kept here: the trainer sends again what is unanswered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt
import torch

from common.errors import LayerwiseError, MalformedError, UnreachableError
from common.messages import RISING, BoundaryKind, BoundaryMessage
from common.rpc import async_stream, error_of
from common.table import Table, lay_out
from common.wire.methods import EXCHANGE
from common.wire.payloads import decode_boundary, encode_boundary
from slave.decoupling import Message
from slave.mail import Arrivals, Inbox, Outgoing

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
    """

    senders: tuple[int, ...] = ()
    receivers: tuple[int, ...] = ()
    window: int = 1
    slots: int | None = None

    @property
    def capacity(self) -> int:
        """The most messages that wait for or from one neighbour that keeps to its window."""
        return max(2 * self.window, self.slots or 0) + SPARE


class Links(Protocol):
    """The messages of one lease, to and from the neighbouring layers: a profile."""

    def send(self, message: Message, encoded: bytes) -> None:
        """Hand a message over, and its encoding; on the event loop's thread.

        One to a neighbour that is not there is dropped: the trainer is told when it is.
        """

    async def run(self) -> None:
        """Exchange messages until cancelled.

        Raises:
            LayerwiseError: the lease cannot go on.
        """


class Patience:
    """Delays between attempts, doubling with jitter, and how long to go on in all."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since: float | None = None
        self._delay = 0.1

    def reset(self) -> None:
        """It works again."""
        self._since, self._delay = None, 0.1

    async def wait(self, error: LayerwiseError) -> None:
        """Wait before the next attempt.

        Raises:
            LayerwiseError: as `pause`.
        """
        await asyncio.sleep(self.pause(error))

    def pause(self, error: LayerwiseError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            LayerwiseError: `error`, if it has been going on for too long, or is none that time heals.
        """
        now = self._clock()
        self._since = self._since or now
        if not isinstance(error, UnreachableError) or now - self._since > self._seconds:
            raise error
        seconds = self._delay * random.uniform(0.5, 1.5)  # noqa: S311 - jitter is no secret
        self._delay = min(2 * self._delay, 2.0)
        return seconds


class LightLinks:
    """Messages of one lease, through the master.

    Args:
        channels: the channels to the master for activations and for gradients.
        incarnation: of the lease.
        inbox: takes each `Message` that arrives, and `Reopened`.
        patience: for a master that is away.
        slots: see `Boundary`.
    """

    def __init__(
        self,
        channels: dict[BoundaryKind, Any],
        incarnation: int,
        inbox: Inbox,
        patience: Patience,
        slots: int | None = None,
    ) -> None:
        self._channels = channels
        self._incarnation = incarnation
        self._inbox = inbox
        self._patience = patience
        self._outgoing = {kind: Outgoing(slots) for kind in channels}
        self._arrivals = {kind: Arrivals(inbox, slots) for kind in channels}

    def send(self, message: Message, encoded: bytes) -> None:
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
                await self._exchange()
            except grpc.RpcError as failure:
                error = error_of(failure, EXCHANGE)
            except asyncio.InvalidStateError:  # a write to a stream that the master has closed
                pass
            await self._patience.wait(error)

    async def _exchange(self) -> None:
        """Open the streams, gradients first: answers must find their way before anything asks for them."""
        for outgoing in self._outgoing.values():
            outgoing.clear()
        kinds = (BoundaryKind.GRADIENTS, BoundaryKind.ACTIVATIONS)
        calls = {kind: async_stream(self._channels[kind], EXCHANGE) for kind in kinds}
        tasks: list[asyncio.Task[None]] = []
        try:
            for kind, call in calls.items():
                hello = BoundaryMessage(kind, 0, incarnation=self._incarnation)
                await call.write(encode_boundary(hello))
                if await call.read() is grpc.aio.EOF:
                    return
            self._patience.reset()
            self._inbox.put(Reopened())
            for kind, call in calls.items():
                tasks.append(asyncio.ensure_future(self._receive(call, self._arrivals[kind])))
                tasks.append(asyncio.ensure_future(transmit(call, self._outgoing[kind])))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            for call in calls.values():
                call.cancel()

    async def _receive(self, call: Any, arrivals: Arrivals) -> None:
        while (encoded := await call.read()) is not grpc.aio.EOF:
            arrivals.put(from_wire(decode_boundary(encoded)))


async def transmit(call: Any, outgoing: Outgoing) -> None:
    """Write what waits to a stream, until it is closed."""
    while (encoded := await outgoing.get()) is not None:
        await call.write(encoded)


@lru_cache(maxsize=64)
def _table(shape: tuple[int, ...], with_input: bool) -> Table:
    names = ["tensor", "input"] if with_input else ["tensor"]
    return lay_out([(name, "float32", shape, "buffer") for name in names])


_NOTHING = Table((), 0)
_NAMES = (["tensor"], ["tensor", "input"])


def to_wire(message: Message) -> BoundaryMessage:
    """A trainer's message with its tensor as bytes: the tensor's own memory on a CPU."""
    table, data = _NOTHING, memoryview(b"")
    if message.tensor is not None:
        table = _table(tuple(message.tensor.shape), message.input is not None)
        data = _bytes_of(message.tensor)
        if message.input is not None:
            both = bytearray(table.nbytes)
            for spec, each in zip(table.tensors, (message.tensor, message.input), strict=True):
                both[spec.offset : spec.offset + spec.nbytes] = _bytes_of(each)
            data = memoryview(both)
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


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    array: npt.NDArray[np.uint8] = tensor.contiguous().cpu().numpy().reshape(-1).view(np.uint8)
    return array.data


def from_wire(message: BoundaryMessage) -> Message:
    """A message for the trainer, its tensors in memory of its own.

    Raises:
        MalformedError: it has other tensors than its kind has.
    """
    tensors: list[torch.Tensor] = []
    if message.kind in (BoundaryKind.ACTIVATION, BoundaryKind.GRADIENT):
        specs = message.table.tensors
        if [spec.name for spec in specs] not in _NAMES or any(spec.dtype != "float32" for spec in specs):
            raise MalformedError(
                f"{message.kind.name} has the tensors {[spec.name for spec in specs]}; one of float32 is "
                "expected, perhaps with its input"
            )
        # Copied: within the message it need not be aligned.
        arrays = message.table.arrays(message.data)
        tensors = [torch.from_numpy(arrays[spec.name].copy()) for spec in specs]
    return Message(
        message.kind,
        message.layer,
        message.batch,
        message.incarnation,
        tensors[0] if tensors else None,
        message.replica,
        message.sender,
        tensors[1] if len(tensors) > 1 else None,
    )
