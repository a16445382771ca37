"""A made-up machine: the slave that is on it, what has come for it, and until when it computes."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from dataclasses import dataclass, field

from common.shards.pushes import Header, PushReply
from common.wire.boundary import Message
from common.wire.messages import JoinReply, Telemetry
from deploy.simulation.wires import Link
from slave.training.layers import Seated


@dataclass(frozen=True)
class Fetched:
    """A version that the master sent."""

    header: Header
    buffer: bytes


class Reopened:
    """The slave's streams are open: what is unanswered goes out again."""


Event = Message | PushReply | Fetched | Reopened


@dataclass(eq=False)
class Machine:
    """One slave's place.

    Attributes:
        layer: whose it is.
        replica: which of the layer's.
        slowness: how many times longer than others it computes.
        lease: of the slave that is there, or was last.
        seated: that slave; None while there is none.
        busy_seconds: in which it has computed.
        done: through, and all that it learned is with the master.
    """

    layer: int
    replica: int
    slowness: float
    link: Link = field(default_factory=Link)
    lease: JoinReply = field(default_factory=JoinReply)
    seated: Seated | None = None
    inbox: deque[Event] = field(default_factory=deque)
    busy_until: float = 0.0
    busy_seconds: float = 0.0
    done: bool = False
    _lost: int = 0
    _delays: Counter[int] = field(default_factory=Counter)

    def take(self, lease: JoinReply, seated: Seated) -> None:
        """A slave takes the place."""
        self.lease, self.seated, self.busy_until = lease, seated, 0.0

    def die(self) -> None:
        """The slave is gone, and what had come for it."""
        assert self.seated is not None
        self._lost, self._delays = self.lost_batches, self.delays
        self.seated = None
        self.inbox.clear()

    @property
    def lost_batches(self) -> int:
        """By all slaves that were here."""
        return self._lost + (self.seated.trainer.lost_batches if self.seated else 0)

    @property
    def delays(self) -> Counter[int]:
        """Of the gradients that came for all of them."""
        return self._delays + (self.seated.trainer.delays if self.seated else Counter())

    def telemetry(self) -> Telemetry:
        """What a heartbeat would say."""
        if self.seated is None:
            return Telemetry()
        return dataclasses.replace(
            self.seated.telemetry(),
            lost_batches=self.lost_batches,
            step_seconds=self.busy_seconds,
            delays=dict(self.delays),
            done=self.done,
        )
