"""The light profile's mailboxes: boundary messages passed on by their address, as the bytes that came.

A mailbox exists while its reader's stream is open, and is bounded; what is addressed to nobody is dropped.
Nothing is lost by that: a sender keeps every activation until it is answered, and sends it again when its
peer is new.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from common.errors import LayerwiseError, MalformedError
from common.shards.pushes import Buffer
from common.slots import Slots
from common.wire.messages import FALLING, RISING, BoundaryKind, BoundaryMessage
from common.wire.payloads import encode_boundary

# Twice the largest window (a resend may come behind the first sending), and room for END, LOST and PEER.
SPARE = 8

_STREAM_OF = dict.fromkeys(RISING, BoundaryKind.ACTIVATIONS) | dict.fromkeys(FALLING, BoundaryKind.GRADIENTS)

_SLOTTED = (BoundaryKind.ACTIVATION, BoundaryKind.GRADIENT)


@dataclass(frozen=True)
class Address:
    """Whose stream, of which kind."""

    layer: int
    replica: int
    stream: BoundaryKind


class Mailbox:
    """Messages on their way to one open stream, oldest first; None closes the stream.

    Given `slots`, activations and gradients share those: a newer batch's takes the place of an older one's.
    """

    def __init__(self, capacity: int, slots: int | None = None) -> None:
        self._messages = Slots[Buffer](slots)
        self._some = asyncio.Event()
        self._capacity = capacity + (slots or 0)
        self.closed = False
        # Why the stream is ended, where its own messages broke a rule.
        self.refusal: LayerwiseError | None = None

    def put(self, message: Buffer, batch: int | None = None) -> bool:
        """Add one, if there is room; whether there was. `batch` is that of an activation or a gradient."""
        if len(self) >= self._capacity:
            return False
        self._messages.put(message, batch)
        self._some.set()
        return True

    def close(self) -> None:
        """Let the reader end after what is there."""
        self.closed = True
        self._some.set()

    async def get(self) -> Buffer | None:
        """The oldest one, as soon as there is one; None once closed."""
        while not len(self) and not self.closed:
            self._some.clear()
            await self._some.wait()
        return self._messages.get() if len(self) else None

    def __len__(self) -> int:
        return len(self._messages)


class Relay:
    """Mailboxes by address.

    Args:
        windows: of each layer, the most batches that it may have out.
        replicas: of each layer.
        slots: of each mailbox, where messages may be lost.
    """

    def __init__(self, windows: list[int], replicas: list[int], slots: int | None = None) -> None:
        self._slots = slots
        self._capacity = 2 * max(windows) * max(replicas) + SPARE
        self._mailboxes: dict[Address, Mailbox] = {}
        self.dropped = 0

    def open(self, address: Address) -> Mailbox:
        """A fresh mailbox for a stream; an older stream of the same address is closed."""
        self.close(address, self._mailboxes.get(address))
        self._mailboxes[address] = mailbox = Mailbox(self._capacity, self._slots)
        return mailbox

    def connect(self, address: Address) -> Mailbox:
        """Open a slave's stream; a stream of activations is announced to the layer below."""
        mailbox = self.open(address)
        if address.stream is BoundaryKind.ACTIVATIONS:
            self.announce(address)
        return mailbox

    def close(self, address: Address, mailbox: Mailbox | None) -> None:
        """Forget a stream's mailbox, unless a newer stream has taken the address."""
        if mailbox is not None:
            mailbox.close()
            if self._mailboxes.get(address) is mailbox:
                del self._mailboxes[address]

    def vacate(self, layer: int, replica: int) -> None:
        """Close the streams of a slave whose lease has ended."""
        for stream in (BoundaryKind.ACTIVATIONS, BoundaryKind.GRADIENTS):
            address = Address(layer, replica, stream)
            self.close(address, self._mailboxes.get(address))

    def announce(self, there: Address) -> None:
        """Tell the layer below that a slave is there (again): what it has not answered is to be sent anew."""
        notice = encode_boundary(BoundaryMessage(BoundaryKind.PEER, there.layer, sender=there.replica))
        for address in list(self._mailboxes):
            if address.stream is BoundaryKind.ACTIVATIONS and address.layer == there.layer - 1:
                self._deliver(address, notice)

    def put(self, sender: Address, message: BoundaryMessage, encoded: Buffer) -> None:
        """Pass a message on to the mailbox it is addressed to.

        A mailbox that is full is closed: its reader does not keep up. Once it opens its stream anew, all that
        is unanswered is sent again.

        Raises:
            MalformedError: it is not for a neighbour of its sender, or of no kind that travels so.
        """
        stream = _STREAM_OF.get(message.kind)
        step = 1 if stream is BoundaryKind.ACTIVATIONS else -1
        if stream is not sender.stream or message.layer != sender.layer + step:
            raise MalformedError(
                f"layer {sender.layer} sent {message.kind.name} to layer {message.layer} on its stream of "
                f"{sender.stream.name}"
            )
        batch = message.batch if message.kind in _SLOTTED else None
        self._deliver(Address(message.layer, message.replica, sender.stream), encoded, batch)

    def _deliver(self, address: Address, encoded: Buffer, batch: int | None = None) -> None:
        mailbox = self._mailboxes.get(address)
        if mailbox is None:
            self.dropped += 1
        elif not mailbox.put(encoded, batch):
            self.close(address, mailbox)

    def depth(self, layer: int, replica: int) -> int:
        """How many messages are on their way to a slave."""
        return sum(
            len(mailbox)
            for there, mailbox in self._mailboxes.items()
            if (there.layer, there.replica) == (layer, replica)
        )
