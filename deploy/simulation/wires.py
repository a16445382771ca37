"""Network of simulated machines: a link a machine, with a byte at a time in either direction."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from common.config.simulation import SimulationConfig


@dataclass(eq=False)
class Link:
    """Link of a machine: times at which up and down are free, and the last arrival by sender."""

    up: float = 0.0
    down: float = 0.0
    came: dict[Link, float] = field(default_factory=dict)


class Wires:
    """Arrival times of messages.

    Args:
        settings: latency, bandwidth, loss.
        draws: source of jitter and losses.
    """

    def __init__(self, settings: SimulationConfig, draws: random.Random) -> None:
        self._settings = settings
        self._draws = draws

    def lost(self) -> bool:
        """Draw whether a message is lost on one link."""
        return self._settings.loss > 0 and self._draws.random() < self._settings.loss

    def arrival(self, now: float, sender: Link, receiver: Link, nbytes: int, *, resent: bool = True) -> float:
        """Return the arrival time of the end of a message that is sent at `now`, in seconds.

        A lost message is sent again, and later messages wait behind, as on a stream. `resent` false: the
        caller has drawn the loss.
        """
        settings = self._settings
        took = nbytes / settings.bandwidth_bytes_per_second
        began = max(now, sender.up)
        sender.up = began + took
        latency = settings.latency_seconds
        if settings.jitter:
            latency *= self._draws.lognormvariate(0.0, settings.jitter)
        latency += self._resend_seconds() if resent else 0.0
        # Received while being sent, unless the receiver is busy.
        receiver.down = max(sender.up + latency, receiver.down + took)
        arrived = max(receiver.down, receiver.came.get(sender, 0.0))
        receiver.came[sender] = arrived
        return arrived

    def _resend_seconds(self) -> float:
        """Draw the seconds by which losses, perhaps repeated, delay a message."""
        late = 0.0
        while self.lost():
            late += self._settings.resend_seconds
        return late
