"""Page /healthz: signs of life of a process' parts, with HTTP status 503 once a part has failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common import strict_json
from common.observe.web import Page

# Shortest limits, for clusters with very short heartbeats or intervals between snapshots.
SHORTEST_SILENCE_SECONDS, SHORTEST_INTERVAL_SECONDS = 10.0, 60.0
# Intervals between snapshots without a snapshot, after which snapshots count as failed.
SNAPSHOT_INTERVALS = 3


@dataclass(frozen=True)
class Pulse:
    """Sign of life of a part of a process.

    Attributes:
        part: name of the part.
        age: seconds since the last success.
        limit: age in seconds beyond which the part has failed.
    """

    part: str
    age: float
    limit: float

    @property
    def status(self) -> str:
        """`ok` or `failed`."""
        return "ok" if self.age <= self.limit else "failed"

    def describe(self) -> dict[str, Any]:
        """Describe the pulse for the page."""
        return {
            "status": self.status,
            "age_seconds": round(self.age, 3),
            "limit_seconds": round(self.limit, 3),
        }


def silence_limit(heartbeat_seconds: float, misses: int) -> float:
    """Return the silence in seconds that ends a lease, and that no tick or heartbeat may reach."""
    return max(SHORTEST_SILENCE_SECONDS, heartbeat_seconds * misses)


def snapshot_limit(snapshot_seconds: float) -> float:
    """Return the age in seconds at which the last look at the need for a snapshot is old."""
    return max(SHORTEST_INTERVAL_SECONDS, SNAPSHOT_INTERVALS * snapshot_seconds)


def health_page(pulses: Sequence[Pulse]) -> Page:
    """Render the page: the status of the process, and every part's."""
    failed = any(pulse.status == "failed" for pulse in pulses)
    parts = {pulse.part: pulse.describe() for pulse in pulses}
    body = strict_json.encode({"status": "failed" if failed else "ok", **parts}).encode()
    return Page(body + b"\n", "application/json", 503 if failed else 200)
