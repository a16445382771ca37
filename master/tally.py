"""What the master counts."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from common import messages as m
from common.lifecycle import cpu_seconds, peak_rss_bytes

# What of the counters survives a restart; the rest is the process' own.
KEPT = (
    "pushes", "pulls", "duplicate_pushes", "refused_pushes", "fenced_pushes", "malformed", "bytes_received",
    "bytes_sent",
)  # fmt: skip


@dataclass
class Tally:
    """What the master counts, on whatever thread it happens."""

    staleness: Counter[int] = field(default_factory=Counter)
    pushes: int = 0
    pulls: int = 0
    duplicate_pushes: int = 0
    refused_pushes: int = 0
    fenced_pushes: int = 0
    malformed: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, **counts: int) -> None:
        """Count."""
        with self._lock:
            for name, more in counts.items():
                setattr(self, name, getattr(self, name) + more)

    def answered(self, reply: m.PushReply) -> None:
        """Count a push."""
        if not reply.applied:
            self.add(**{"refused_pushes" if reply.refused else "duplicate_pushes": 1})
            return
        with self._lock:
            self.pushes += 1
            self.staleness[min(reply.staleness, 1024)] += 1

    def saved_staleness(self) -> dict[int, int]:
        """How many pushes had each staleness."""
        with self._lock:
            return dict(self.staleness)

    def reported(self) -> m.Counters:
        """As a message, with what the process has used."""
        counts = {name: getattr(self, name) for name in KEPT}
        return m.Counters(
            staleness=self.saved_staleness(),
            cpu_seconds=cpu_seconds(),
            peak_rss_bytes=peak_rss_bytes(),
            **counts,
        )
