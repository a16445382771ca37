"""Mailboxes of profile `light`: boundary messages passed on by address, as received bytes.

A mailbox is bounded, and exists while its reader's stream is open; messages to absent readers are dropped. A
sender keeps every activation until the answer, and sends again to a new peer, so no batch is lost.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from common.errors import LayerwiseError, MalformedError
from common.shards.pushes import Buffer
from common.slots import Slots
from common.wire.messages import FALLING, RISING, BoundaryKind, BoundaryMessage
from common.wire.payloads import encode_boundary

# Beyond twice the largest window (a resend may follow the first sending): room for END, LOST and PEER.
SPARE = 8

_STREAM_OF = dict.fromkeys(RISING, BoundaryKind.ACTIVATIONS) | dict.fromkeys(FALLING, BoundaryKind.GRADIENTS)

_SLOTTED = (BoundaryKind.ACTIVATION, BoundaryKind.GRADIENT)


@dataclass(frozen=True)
class Address:
    """Key of a mailbox: layer, replica and direction."""

    layer: int
    replica: int
    stream: BoundaryKind


class Mailbox:
    """Messages waiting for an open stream, oldest first.

    Args:
        capacity: most messages.
        slots: number of slots for activations and gradients, where a newer batch replaces an older batch;
            None: no message is replaced.
    """

    def __init__(self, capacity: int, slots: int | None = None) -> None:
        self._messages = Slots[Buffer](slots)
        self._some = asyncio.Event()
        self._capacity = capacity + (slots or 0)
        self.closed = False
        # Error that ends the stream, after a message of its own broke a rule.
        self.refusal: LayerwiseError | None = None

    def put(self, message: Buffer, batch: int | None = None) -> bool:
        """Add a message, with the batch of an activation or gradient; returns False if full."""
        if len(self) >= self._capacity:
            return False
        self._messages.put(message, batch)
        self._some.set()
        return True

    def close(self) -> None:
        """Let the reader end after the messages left."""
        self.closed = True
        self._some.set()

    async def get(self) -> Buffer | None:
        """Wait for the oldest message; None after the last message of a closed mailbox."""
        while not len(self) and not self.closed:
            self._some.clear()
            await self._some.wait()
        return self._messages.get() if len(self) else None

    def __len__(self) -> int:
        return len(self._messages)


class Relay:
    """Mailboxes by address.

    Args:
        windows: most batches in flight, by layer.
        replicas: R_k of each layer.
        slots: of a mailbox, where messages may be lost; None: where not.
    """

    def __init__(self, windows: list[int], replicas: list[int], slots: int | None = None) -> None:
        self._slots = slots
        self._capacity = 2 * max(windows) * max(replicas) + SPARE
        self._mailboxes: dict[Address, Mailbox] = {}
        self.dropped = 0

    def open(self, address: Address) -> Mailbox:
        """Make a mailbox for a stream, and close an older stream of the address."""
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
        """Close a stream's mailbox, and free the address unless a newer stream has taken the address."""
        if mailbox is not None:
            mailbox.close()
            if self._mailboxes.get(address) is mailbox:
                del self._mailboxes[address]

    def vacate(self, layer: int, replica: int) -> None:
        """Close the streams of a seat after the end of a lease."""
        for stream in (BoundaryKind.ACTIVATIONS, BoundaryKind.GRADIENTS):
            address = Address(layer, replica, stream)
            self.close(address, self._mailboxes.get(address))

    def announce(self, peer: Address) -> None:
        """Tell the layer below about a new peer: unanswered batches are to be sent again."""
        notice = encode_boundary(BoundaryMessage(BoundaryKind.PEER, peer.layer, sender=peer.replica))
        for address in list(self._mailboxes):
            if address.stream is BoundaryKind.ACTIVATIONS and address.layer == peer.layer - 1:
                self._deliver(address, notice)

    def put(self, sender: Address, message: BoundaryMessage, encoded: Buffer) -> None:
        """Pass a message to the addressed mailbox.

        A full mailbox is closed: the reader does not keep up. After the reader opens a new stream, unanswered
        batches are sent again.

        Raises:
            MalformedError: the address is no neighbour of the sender, or the kind does not fit the stream.
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
        """Number of messages waiting for a seat."""
        return sum(
            len(mailbox)
            for address, mailbox in self._mailboxes.items()
            if (address.layer, address.replica) == (layer, replica)
        )
