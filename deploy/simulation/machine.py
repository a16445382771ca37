"""Simulated machine: a slave, the waiting events, and the end of the computation."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from dataclasses import dataclass, field

from common.wire.messages import JoinReply, Telemetry
from deploy.simulation.wires import Link
from slave.training.worker import Event, Worker


@dataclass(eq=False)
class Machine:
    """Place of one slave.

    Attributes:
        layer: k.
        replica: r.
        slowness: factor of all computing times.
        lease: of the present slave, or the last.
        worker: the present slave; None while the seat is vacant.
        busy_seconds: time spent computing.
        done: the layer is through, and the master has every update.
    """

    layer: int
    replica: int
    slowness: float
    link: Link = field(default_factory=Link)
    lease: JoinReply = field(default_factory=JoinReply)
    worker: Worker | None = None
    inbox: deque[Event] = field(default_factory=deque)
    busy_until: float = 0.0
    busy_seconds: float = 0.0
    done: bool = False
    _lost: int = 0
    _lost_states: int = 0
    _delays: Counter[int] = field(default_factory=Counter)

    def take(self, lease: JoinReply, worker: Worker) -> None:
        """Seat a slave."""
        self.lease, self.worker, self.busy_until = lease, worker, 0.0

    def die(self) -> None:
        """Remove the slave and the waiting events."""
        self._lost, self._delays = self.lost_batches, self.delays
        self._lost_states = self.lost_states
        self.worker = None
        self.inbox.clear()

    def retire(self) -> None:
        """Remove the slave, whose stage is over."""
        self.die()
        self.done = False

    @property
    def next_batch(self) -> int:
        """First batch not seen by the layer's weights; 0 without a slave."""
        return self.worker.trainer.next_batch if self.worker else 0

    @property
    def lost_batches(self) -> int:
        """Number of batches lost by all slaves of the place."""
        return self._lost + (self.worker.trainer.lost_batches if self.worker else 0)

    @property
    def lost_states(self) -> int:
        """Number of states lost by all slaves of the place."""
        return self._lost_states + (self.worker.trained.telemetry().lost_states if self.worker else 0)

    @property
    def delays(self) -> Counter[int]:
        """Delays of the gradients of all slaves of the place."""
        return self._delays + (self.worker.trainer.delays if self.worker else Counter())

    def telemetry(self) -> Telemetry:
        """Return the telemetry of a heartbeat."""
        if self.worker is None:
            return Telemetry()
        return dataclasses.replace(
            self.worker.trained.telemetry(),
            lost_batches=self.lost_batches,
            lost_states=self.lost_states,
            step_seconds=self.busy_seconds,
            delays=dict(self.delays),
            done=self.done,
        )
