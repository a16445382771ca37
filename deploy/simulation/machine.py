"""Simulated machine: the slave on it, the events that wait for the slave, and the end of its computing."""

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
        layer: layer that its slaves train.
        replica: replica of the layer.
        slowness: factor on the time of all computing.
        lease: of the present slave, or the last.
        worker: the present slave; None while there is none.
        busy_seconds: time spent computing.
        done: the layer is through, and the master has all that it learned.
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
    _delays: Counter[int] = field(default_factory=Counter)

    def take(self, lease: JoinReply, worker: Worker) -> None:
        """Have a slave take the place."""
        self.lease, self.worker, self.busy_until = lease, worker, 0.0

    def die(self) -> None:
        """Remove the slave, and the events that wait for it."""
        self._lost, self._delays = self.lost_batches, self.delays
        self.worker = None
        self.inbox.clear()

    @property
    def next_batch(self) -> int:
        """First batch that the layer's weights have not seen; 0 without a slave."""
        return self.worker.trainer.next_batch if self.worker else 0

    @property
    def lost_batches(self) -> int:
        """Number of batches lost by all slaves of the place."""
        return self._lost + (self.worker.trainer.lost_batches if self.worker else 0)

    @property
    def delays(self) -> Counter[int]:
        """Delays of the gradients that came for all slaves of the place."""
        return self._delays + (self.worker.trainer.delays if self.worker else Counter())

    def telemetry(self) -> Telemetry:
        """Return the telemetry that a heartbeat would carry."""
        if self.worker is None:
            return Telemetry()
        return dataclasses.replace(
            self.worker.trained.telemetry(),
            lost_batches=self.lost_batches,
            step_seconds=self.busy_seconds,
            delays=dict(self.delays),
            done=self.done,
        )
