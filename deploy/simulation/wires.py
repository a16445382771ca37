"""The network between made-up machines: each has one link, that takes one byte after the other each way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from common.config.simulation import SimulationConfig


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

    def __init__(self, settings: SimulationConfig, draws: random.Random) -> None:
        self._settings = settings
        self._draws = draws

    def lost(self) -> bool:
        """Whether a message is, on its next way."""
        return self._settings.loss > 0 and self._draws.random() < self._settings.loss

    def arrival(self, now: float, sender: Link, receiver: Link, nbytes: int, *, resent: bool = True) -> float:
        """When all of a message is there.

        One that is lost is sent again, and what follows waits for it, as on one stream; unless it was seen to
        before that it is not lost (`resent` is false).
        """
        settings = self._settings
        took = nbytes / settings.bandwidth_bytes_per_second
        began = max(now, sender.up)
        sender.up = began + took
        latency = settings.latency_seconds
        if settings.jitter:
            latency *= self._draws.lognormvariate(0.0, settings.jitter)
        latency += self._resent() if resent else 0.0
        # Received as it is sent, unless something else is being received.
        receiver.down = max(sender.up + latency, receiver.down + took)
        arrived = max(receiver.down, receiver.came.get(sender, 0.0))
        receiver.came[sender] = arrived
        return arrived

    def _resent(self) -> float:
        """How much later a message comes for having been lost, perhaps again and again; seconds."""
        late = 0.0
        while self.lost():
            late += self._settings.resend_seconds
        return late
