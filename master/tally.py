"""What the master counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from common import messages as m
from common import metrics
from common.lifecycle import cpu_seconds, peak_rss_bytes
from common.metrics import Histogram

# What of the counters survives a restart; the rest is the process' own.
KEPT = (
    "pushes", "pulls", "duplicate_pushes", "refused_pushes", "fenced", "malformed", "bytes_received",
    "bytes_sent",
)  # fmt: skip


@dataclass
class SeatTally:
    """What this master has counted of one seat's pushes and pulls."""

    staleness: Counter[int] = field(default_factory=Counter)
    pushes: int = 0
    pulls: int = 0
    duplicate_pushes: int = 0
    refused_pushes: int = 0


@dataclass
class Tally:
    """What the master counts."""

    staleness: Counter[int] = field(default_factory=Counter)
    # By (layer, replica).
    seats: dict[tuple[int, int], SeatTally] = field(default_factory=lambda: defaultdict(SeatTally))
    failed_leases: int = 0
    snapshot: Histogram = field(default_factory=lambda: Histogram(metrics.SNAPSHOT_SECONDS))
    pushes: int = 0
    pulls: int = 0
    duplicate_pushes: int = 0
    refused_pushes: int = 0
    fenced: int = 0
    malformed: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def pushed(self, layer: int, replica: int, reply: m.PushReply) -> None:
        """Count a push that was answered."""
        seat = self.seats[layer, replica]
        if reply.applied:
            self.pushes += 1
            self.staleness[min(reply.staleness, 1024)] += 1
            seat.pushes += 1
            seat.staleness[min(reply.staleness, 1024)] += 1
        elif reply.refused:
            self.refused_pushes += 1
            seat.refused_pushes += 1
        else:
            self.duplicate_pushes += 1
            seat.duplicate_pushes += 1

    def reported(self) -> m.Counters:
        """As a message, with what the process has used."""
        counts = {name: getattr(self, name) for name in KEPT}
        return m.Counters(
            staleness=dict(self.staleness),
            cpu_seconds=cpu_seconds(),
            peak_rss_bytes=peak_rss_bytes(),
            **counts,
        )
