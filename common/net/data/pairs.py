"""Streams between a pair of neighbouring slaves, as either end and the relay have them.

The first message on each side is a hello (BoundaryKind.PAIR): the seat that it is for, the sender's replica
and incarnation, and the run. The pair is open once an end has received the hello of the other end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from common.credentials import is_proof, prove
from common.errors import LayerwiseError, MalformedError, StalledError, UnreachableError
from common.net.data.streams import Parts, Stream
from common.net.tasks import cancel
from common.shards.pushes import Buffer
from common.slots import Slots
from common.wire.boundary import FALLING, RISING, SLOTTED
from common.wire.messages import BoundaryKind, BoundaryMessage
from common.wire.payloads import decode_boundary

# Room in an outbox beside twice a window (a resend may follow the first sending): END, LOST and hellos.
SPARE = 8
# A stream without a hello is ended after so long.
HELLO_SECONDS = 10.0
# Characters of the reason for a refused message.
LONGEST_REASON = 2000

# (layer, replica).
Seat = tuple[int, int]


def capacity(window: int, slots: int | None) -> int:
    """Return the most messages that wait for a neighbour that keeps to the window, in batches."""
    return max(2 * window, slots or 0) + SPARE


def slot_batch(kind: BoundaryKind, batch: int) -> int | None:
    """Return the batch by which newer messages replace a message; None for kinds that are never dropped."""
    return batch if kind in SLOTTED else None


class Outbox:
    """Messages that wait for the one sender of a stream; on an event loop's thread.

    Args:
        capacity: upper bound of waiting messages; a message more closes the outbox.
        slots: see `Slots`; None: no message replaces another.

    Attributes:
        error: reason of the close, for the peer; None for a close without one.
    """

    def __init__(self, capacity: int, slots: int | None = None) -> None:
        self._waiting: Slots[Parts] = Slots(slots)
        self._capacity = capacity
        self._some = asyncio.Event()
        self.closed = False
        self.error: LayerwiseError | None = None

    def put(self, parts: Parts, batch: int | None = None) -> bool:
        """Add a message, in the slot of `batch` if given; False where the outbox is closed, or full."""
        if not self.closed and len(self._waiting) >= self._capacity:
            self.close(UnreachableError("too much waits to be sent; open the stream anew"))
        if self.closed:
            return False
        self._waiting.put(parts, batch)
        self._some.set()
        return True

    def close(self, error: LayerwiseError | None = None, last: Parts | None = None) -> None:
        """Let the sender end, after a last message if given; waiting messages go with the stream."""
        if not self.closed:
            self.closed, self.error = True, error
            self._waiting.clear()
            if last is not None:
                self._waiting.put(last, None)
            self._some.set()

    async def get(self) -> Parts | None:
        """Wait for a message, and return the oldest; None once closed."""
        while not self.closed and not len(self._waiting):
            self._some.clear()
            await self._some.wait()
        return self._waiting.get() if len(self._waiting) else None

    def __len__(self) -> int:
        return len(self._waiting)


async def transmit(stream: Stream, outbox: Outbox) -> None:
    """Write the messages of an outbox to a call, until the outbox is closed."""
    while (parts := await outbox.get()) is not None:
        await stream.write(*parts)


async def answers(outbox: Outbox, reading: Coroutine[Any, Any, None]) -> AsyncGenerator[Parts, None]:
    """Yield the messages of an outbox as the answers of a call, while a coroutine reads the requests.

    Raises:
        LayerwiseError: the reason for which the outbox was closed.
    """
    task = asyncio.ensure_future(reading)
    try:
        while (parts := await outbox.get()) is not None:
            yield parts
        if task.done() and not task.cancelled() and (defect := task.exception()):
            raise defect
        if outbox.error is not None:
            raise outbox.error
    finally:
        await cancel([task])


async def read_hello(requests: AsyncIterator[Buffer], seconds: float = HELLO_SECONDS) -> BoundaryMessage:
    """Read the first message of a stream.

    Raises:
        StalledError: no message came within `seconds`.
        MalformedError: the first message is no hello.
    """
    try:
        async with asyncio.timeout(seconds):
            encoded = await anext(requests, b"")
    except TimeoutError:
        raise StalledError("the stream did not begin with a hello in time") from None
    return decode_hello(encoded)


def decode_hello(encoded: Buffer) -> BoundaryMessage:
    """Decode the first message of a stream.

    Raises:
        MalformedError: the message is no hello.
    """
    hello = decode_boundary(encoded)
    if hello.kind is not BoundaryKind.PAIR:
        raise MalformedError(f"a stream begins with PAIR, not {hello.kind.name}")
    return hello


@dataclass(frozen=True)
class Ends:
    """Names of the certificates at the two ends of a connection; empty in the clear.

    A slave between two others could pass their hellos on, and read: it cannot show their certificates.
    """

    sender: str = ""
    receiver: str = ""


def prove_hello(hello: BoundaryMessage, secret: str, ends: Ends = Ends()) -> str:
    """Return the proof for a hello that its sender knows the secret of the pair, and who it speaks with."""
    return prove(secret, *_hello_words(hello, ends))


def is_proven_hello(
    hello: BoundaryMessage,
    secret: str,
    ends: Ends = Ends(),
) -> bool:
    """Whether the sender of a hello knows the secret of the pair, and speaks with this end itself."""
    return is_proof(hello.proof, secret, *_hello_words(hello, ends))


def _hello_words(hello: BoundaryMessage, ends: Ends) -> tuple[object, ...]:
    names = (quote(ends.sender, safe=""), quote(ends.receiver, safe="")) if ends != Ends() else ()
    return hello.run, hello.layer, hello.replica, hello.sender, hello.incarnation, *names


def refusal(sender: Seat, receiver: Seat, reason: str) -> BoundaryMessage:
    """Build the last message for a neighbour whose message cannot be used."""
    return BoundaryMessage(BoundaryKind.REFUSED, *receiver, sender=sender[1], reason=reason[:LONGEST_REASON])


def check_message(message: BoundaryMessage, sender: Seat, incarnation: int, receiver: Seat) -> None:
    """Check that a message belongs on the stream from a sender, of an incarnation, to a receiver.

    Raises:
        MalformedError: kind, addresses or incarnation are another stream's.
    """
    # A far slave is of layer K, or hears from layer K alone.
    far = (BoundaryKind.OUTPUT_GRADIENT,) if sender[0] > receiver[0] else ()
    near = RISING if sender[0] < receiver[0] else FALLING
    kinds = (*(near if abs(sender[0] - receiver[0]) == 1 else far), BoundaryKind.REFUSED)
    addresses = (message.layer, message.replica, message.sender)
    if message.kind not in kinds or addresses != (*receiver, sender[1]):
        raise MalformedError(
            f"layer {sender[0]} sent {message.kind.name} to layer {message.layer} replica {message.replica}, "
            f"as replica {message.sender}, on the stream of replica {sender[1]} to layer {receiver[0]} "
            f"replica {receiver[1]}"
        )
    if message.kind in RISING and message.incarnation != incarnation:
        raise MalformedError(f"{message.kind.name} came from incarnation {message.incarnation}")
