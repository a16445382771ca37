"""Boundary of a layer, and the open stream to a neighbour."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UnreachableError
from common.net.data.pairs import Outbox, Seat, capacity
from common.wire.boundary import Message
from slave.network.correspondent import Correspondent


@dataclass(frozen=True)
class Boundary:
    """Neighbours, bounds and wire format of a layer's two boundaries.

    Attributes:
        senders: replicas below that send activations to this slave.
        receivers: replicas above that get activations from this slave.
        window: the most batches that this slave, or a slave below, may have out.
        slots: number of mailbox slots (see `Slots`) where messages may be lost; None: no message is lost.
        wire: dtype of activations and gradients on the wire.
        unanswered: the most batches that a slave below may have out; None: any number.
        far: seats in no neighbouring layer with which this slave has a stream, for dL/dp.
    """

    senders: tuple[int, ...] = ()
    receivers: tuple[int, ...] = ()
    window: int = 1
    slots: int | None = None
    wire: str = "float32"
    unanswered: int | None = None
    far: tuple[Seat, ...] = ()

    @property
    def capacity(self) -> int:
        """Upper bound of waiting messages for or from a neighbour within the window."""
        return capacity(self.window, self.slots)


class Pair:
    """Open stream to a neighbour, with the messages that wait for the neighbour.

    Attributes:
        refused: a message of the neighbour was refused.
        dropping: the trainer has not yet heard that the pair is open.
    """

    def __init__(self, correspondent: Correspondent, boundary: Boundary) -> None:
        self.correspondent = correspondent
        self.seat = correspondent.seat
        self.incarnation = correspondent.incarnation
        self.outbox = Outbox(boundary.capacity, boundary.slots)
        self.refused = False
        self.dropping = False

    def receive(self, message: Message) -> None:
        """Queue a message for the training thread; close the stream of a sender that floods.

        Raises:
            MalformedError: the sender exceeds the window.
        """
        if not self.correspondent.receive(message):
            self.outbox.close(UnreachableError("too much waits to be taken; open the stream anew"))
