"""What the master counts, on whatever thread it happens."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Self

from common.lifecycle import cpu_seconds, peak_rss_bytes
from common.observe import metrics
from common.observe.metrics import Histogram
from common.shards.pushes import PushReply
from common.wire import messages as m

# What of the counters survives a restart; the rest is the process' own.
KEPT = (
    "pushes", "pulls", "duplicate_pushes", "refused_pushes", "fenced", "malformed", "bytes_received",
    "bytes_sent",
)  # fmt: skip
# Of staler pushes it is only known that they were that stale.
MOST_STALE = 1024


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
    """What the master counts; every method takes its lock."""

    # Of each layer: staleness of a push -> how many were applied; and how many were refused.
    staleness: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    refused: Counter[int] = field(default_factory=Counter)
    # By (layer, replica), of this master alone.
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

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Self:
        """What was saved, from JSON, whose keys are text."""
        tally = cls(**{name: saved.get("counters", {}).get(name, 0) for name in KEPT})
        for layer, counts in saved.get("staleness", {}).items():
            tally.staleness[int(layer)].update({int(staleness): count for staleness, count in counts.items()})
        tally.refused.update({int(layer): count for layer, count in saved.get("refused", {}).items()})
        return tally

    def saved(self) -> dict[str, Any]:
        """What survives a restart: plain values, for JSON."""
        with self._lock:
            return {
                "counters": {name: getattr(self, name) for name in KEPT},
                "staleness": {layer: dict(counts) for layer, counts in self.staleness.items()},
                "refused": dict(self.refused),
            }

    def add(self, **counts: int) -> None:
        """Count."""
        with self._lock:
            for name, more in counts.items():
                setattr(self, name, getattr(self, name) + more)

    def pushed(self, layer: int, replica: int, reply: PushReply, *, ages: bool = True) -> None:
        """Count a push by what became of it, and its staleness if it `ages`."""
        with self._lock:
            seat = self.seats[layer, replica]
            if reply.applied:
                self.pushes += 1
                seat.pushes += 1
                for staleness in (self.staleness[layer], seat.staleness):
                    staleness[min(reply.staleness, MOST_STALE)] += ages
            elif reply.refused:
                self.refused_pushes += 1
                self.refused[layer] += 1
                seat.refused_pushes += 1
            else:
                self.duplicate_pushes += 1
                seat.duplicate_pushes += 1

    def pulled(self, seat: tuple[int, int] | None) -> None:
        """Count a pull by the slave on a seat, or by a reader."""
        with self._lock:
            self.pulls += 1
            if seat is not None:
                self.seats[seat].pulls += 1

    def of_seat(self, layer: int, replica: int) -> SeatTally:
        """What was counted of a seat so far, copied."""
        with self._lock:
            seat = self.seats[layer, replica]
            return dataclasses.replace(seat, staleness=seat.staleness.copy())

    def reported(self) -> m.Counters:
        """As a message, with what the process has used."""
        with self._lock:
            counts = {name: getattr(self, name) for name in KEPT}
            staleness = dict(sum(self.staleness.values(), Counter()))
        return m.Counters(
            staleness=staleness, cpu_seconds=cpu_seconds(), peak_rss_bytes=peak_rss_bytes(), **counts
        )

    def by_layer(self) -> list[m.LayerPushes]:
        """The pushes of each layer that has had any."""
        with self._lock:
            layers = sorted({*self.staleness, *self.refused})
            return [m.LayerPushes(k, dict(self.staleness.get(k, {})), self.refused[k]) for k in layers]
