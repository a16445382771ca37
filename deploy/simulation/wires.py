"""The network between made-up machines: each has one link, that takes one byte after the other each way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from common.simulation import Simulation


@dataclass(eq=False)
class Link:
    """A machine's link: when it is free again, up and down, and when what came from each other came last."""

    up: float = 0.0
    down: float = 0.0
    came: dict[Link, float] = field(default_factory=dict)


class Wires:
    """When what is sent arrives.

    Args:
        settings: latency, bandwidth, loss.
        draws: where jitter and losses are drawn from.
    """

    def __init__(self, settings: Simulation, draws: random.Random) -> None:
        self._settings = settings
        self._draws = draws

    def arrival(self, now: float, sender: Link, receiver: Link, nbytes: int) -> float:
        """When all of a message is there; what follows one that is lost waits for it, as on one stream."""
        settings = self._settings
        took = nbytes / settings.bandwidth_bytes_per_second
        began = max(now, sender.up)
        sender.up = began + took
        latency = settings.latency_seconds
        if settings.jitter:
            latency *= self._draws.lognormvariate(0.0, settings.jitter)
        latency += self._resent()
        # Received as it is sent, unless something else is being received.
        receiver.down = max(sender.up + latency, receiver.down + took)
        arrived = max(receiver.down, receiver.came.get(sender, 0.0))
        receiver.came[sender] = arrived
        return arrived

    def _resent(self) -> float:
        """How much later a message comes for having been lost, perhaps again and again; seconds."""
        late = 0.0
        while self._settings.loss and self._draws.random() < self._settings.loss:
            late += self._settings.resend_seconds
        return late
