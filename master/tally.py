"""What the master counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from common import messages as m
from common.lifecycle import cpu_seconds, peak_rss_bytes

# What of the counters survives a restart; the rest is the process' own.
KEPT = (
    "pushes", "pulls", "duplicate_pushes", "refused_pushes", "fenced", "malformed", "bytes_received",
    "bytes_sent",
)  # fmt: skip


@dataclass
class Tally:
    """What the master counts."""

    staleness: Counter[int] = field(default_factory=Counter)
    pushes: int = 0
    pulls: int = 0
    duplicate_pushes: int = 0
    refused_pushes: int = 0
    fenced: int = 0
    malformed: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def reported(self) -> m.Counters:
        """As a message, with what the process has used."""
        counts = {name: getattr(self, name) for name in KEPT}
        return m.Counters(
            staleness=dict(self.staleness),
            cpu_seconds=cpu_seconds(),
            peak_rss_bytes=peak_rss_bytes(),
            **counts,
        )
