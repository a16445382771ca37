"""What the master counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Self

from common import messages as m
from common.lifecycle import cpu_seconds, peak_rss_bytes

# What of the counters survives a restart; the rest is the process' own.
KEPT = (
    "pushes", "pulls", "duplicate_pushes", "refused_pushes", "fenced", "malformed", "bytes_received",
    "bytes_sent",
)  # fmt: skip
# Of staler pushes it is only known that they were that stale.
MOST_STALE = 1024


@dataclass
class Tally:
    """What the master counts."""

    # Of each layer: staleness of a push -> how many were applied; and how many were refused.
    staleness: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    refused: Counter[int] = field(default_factory=Counter)
    pushes: int = 0
    pulls: int = 0
    duplicate_pushes: int = 0
    refused_pushes: int = 0
    fenced: int = 0
    malformed: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

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
        return {
            "counters": {name: getattr(self, name) for name in KEPT},
            "staleness": {layer: dict(counts) for layer, counts in self.staleness.items()},
            "refused": dict(self.refused),
        }

    def note(self, layer: int, reply: m.PushReply, *, ages: bool = True) -> None:
        """Count a push by what became of it, and its staleness if it `ages`."""
        if reply.applied:
            self.pushes += 1
            self.staleness[layer][min(reply.staleness, MOST_STALE)] += ages
        elif reply.refused:
            self.refused_pushes += 1
            self.refused[layer] += 1
        else:
            self.duplicate_pushes += 1

    def reported(self) -> m.Counters:
        """As a message, with what the process has used."""
        counts = {name: getattr(self, name) for name in KEPT}
        return m.Counters(
            staleness=dict(sum(self.staleness.values(), Counter())),
            cpu_seconds=cpu_seconds(),
            peak_rss_bytes=peak_rss_bytes(),
            **counts,
        )

    def by_layer(self) -> list[m.LayerPushes]:
        """The pushes of each layer that has had any."""
        layers = sorted({*self.staleness, *self.refused})
        return [m.LayerPushes(k, dict(self.staleness.get(k, {})), self.refused[k]) for k in layers]
