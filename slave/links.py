"""How boundary messages travel: `light`, through the master's relay.

Two streams, activations and gradients, open and break together. What was under way when they broke is not
kept here: the trainer sends again what is unanswered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import grpc
import numpy as np
import torch

from common.errors import LayerwiseError, MalformedError, UnreachableError
from common.messages import BoundaryKind, BoundaryMessage
from common.rpc import async_stream, error_of
from common.table import Table, lay_out
from common.wire.methods import EXCHANGE
from common.wire.payloads import decode_boundary, encode_boundary
from slave.decoupling import Message

_UP = (BoundaryKind.ACTIVATION, BoundaryKind.END)


class Reopened:
    """The streams are open (again): send what is unanswered."""


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
    """

    def __init__(
        self,
        channels: dict[BoundaryKind, Any],
        incarnation: int,
        inbox: Callable[[object], None],
        patience: Patience,
    ) -> None:
        self._channels = channels
        self._incarnation = incarnation
        self._inbox = inbox
        self._patience = patience
        self._outgoing: dict[BoundaryKind, asyncio.Queue[bytes]] = {
            kind: asyncio.Queue() for kind in channels
        }

    def send(self, kind: BoundaryKind, encoded: bytes) -> None:
        """Hand an encoded message of that kind over; on the event loop's thread."""
        stream = BoundaryKind.ACTIVATIONS if kind in _UP else BoundaryKind.GRADIENTS
        self._outgoing[stream].put_nowait(encoded)

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
        for queue in self._outgoing.values():
            while not queue.empty():
                queue.get_nowait()
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
            self._inbox(Reopened())
            for kind, call in calls.items():
                tasks.append(asyncio.ensure_future(self._receive(call)))
                tasks.append(asyncio.ensure_future(self._transmit(call, self._outgoing[kind])))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            for call in calls.values():
                call.cancel()

    async def _receive(self, call: Any) -> None:
        while (encoded := await call.read()) is not grpc.aio.EOF:
            self._inbox(from_wire(decode_boundary(encoded)))

    async def _transmit(self, call: Any, outgoing: asyncio.Queue[bytes]) -> None:
        while True:
            await call.write(await outgoing.get())


@lru_cache(maxsize=64)
def _table(shape: tuple[int, ...]) -> Table:
    return lay_out([("tensor", "float32", shape, "buffer")])


_NOTHING = Table((), 0)


def to_wire(message: Message) -> BoundaryMessage:
    """A trainer's message with its tensor as bytes: the tensor's own memory on a CPU."""
    table, data = _NOTHING, memoryview(b"")
    if message.tensor is not None:
        array = message.tensor.contiguous().cpu().numpy()
        table, data = _table(tuple(message.tensor.shape)), array.reshape(-1).view(np.uint8).data
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


def from_wire(message: BoundaryMessage) -> Message:
    """A message for the trainer, its tensor in memory of its own.

    Raises:
        MalformedError: it has another tensor than its kind has.
    """
    tensor = None
    if message.kind in (BoundaryKind.ACTIVATION, BoundaryKind.GRADIENT):
        specs = message.table.tensors
        if len(specs) != 1 or specs[0].dtype != "float32":
            raise MalformedError(f"{message.kind.name} has {len(specs)} tensors; one of float32 is expected")
        # Copied: within the message it need not be aligned.
        tensor = torch.from_numpy(np.frombuffer(message.data, np.float32).copy()).view(specs[0].shape)
    return Message(
        message.kind,
        message.layer,
        message.batch,
        message.incarnation,
        tensor,
        message.replica,
        message.sender,
    )
