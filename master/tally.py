"""Counters of the master, safe for several threads."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Self

from common.errors import FencedError, LayerwiseError, MalformedError, TooLargeError
from common.shards.pushes import PushReply
from common.wire.counters import Counters, LayerPushes
from common.wire.ranges import PLACE, Range
from common.wire.saved import restore_keys, restore_map, restore_number
from common.wire.stores import SeatPushes

# Counters that outlive the master.
KEPT = (
    "pushes", "pulls", "duplicate_pushes", "refused_pushes", "fenced", "malformed", "bytes_received",
    "bytes_sent", "restarts",
)  # fmt: skip
# Staler pushes count with this staleness: the table stays bounded.
MOST_STALE = 1024
_STALENESS = Range(0, MOST_STALE)


@dataclass
class SeatTally:
    """Pushes and pulls of a seat since the master started."""

    staleness: Counter[int] = field(default_factory=Counter)
    pushes: int = 0
    pulls: int = 0
    duplicate_pushes: int = 0
    refused_pushes: int = 0


@dataclass
class Tally:
    """Counters of a run; every method takes the lock."""

    # By layer: staleness of a push -> applied pushes; refused pushes.
    staleness: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    refused: Counter[int] = field(default_factory=Counter)
    # By (layer, replica), since the master started.
    seats: dict[tuple[int, int], SeatTally] = field(default_factory=lambda: defaultdict(SeatTally))
    # Refused calls since the master started, by the status that the caller got, in small letters.
    refusals: Counter[str] = field(default_factory=Counter)
    failed_leases: int = 0
    restarts: int = 0
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
    def restore(cls, saved: dict[str, Any]) -> Self:
        """Restore counters from `dump` by way of JSON, which turns keys into text.

        Raises:
            MalformedError: a number is out of range; the text has name and value.
        """
        counters = saved.get("counters", {})
        tally = cls()
        for name in KEPT:
            setattr(tally, name, restore_number(counters.get(name, 0), name))
        for layer, counts in restore_keys(saved.get("staleness", {}), "staleness", PLACE).items():
            tally.staleness[layer].update(restore_map(counts, f"staleness[{layer}]", _STALENESS))
        tally.refused.update(restore_map(saved.get("refused", {}), "refused", PLACE))
        return tally

    def dump(self) -> dict[str, Any]:
        """Values that outlive the master, plain for JSON."""
        with self._lock:
            return {
                "counters": {name: getattr(self, name) for name in KEPT},
                "staleness": {layer: dict(counts) for layer, counts in self.staleness.items()},
                "refused": dict(self.refused),
            }

    def add(self, **counts: int) -> None:
        """Add to counters by name."""
        with self._lock:
            for name, more in counts.items():
                setattr(self, name, getattr(self, name) + more)

    def count_error(self, error: LayerwiseError) -> None:
        """Count a refused call by its status."""
        with self._lock:
            self.refusals[error.status.lower()] += 1
        if isinstance(error, FencedError):
            self.add(fenced=1)
        elif isinstance(error, MalformedError | TooLargeError):
            self.add(malformed=1)

    def refused_calls(self) -> dict[str, int]:
        """Refused calls by reason; the reasons of strangers are there from the start."""
        with self._lock:
            return {"unauthenticated": 0, "permission_denied": 0, **self.refusals}

    def count_push(self, layer: int, replica: int, reply: PushReply, *, ages: bool = True) -> None:
        """Count a push by outcome; with `ages`, by staleness too."""
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

    def count_pull(self, seat: tuple[int, int] | None) -> None:
        """Count a pull by the slave on a seat, or by a reader (None)."""
        with self._lock:
            self.pulls += 1
            if seat is not None:
                self.seats[seat].pulls += 1

    def seat(self, layer: int, replica: int) -> SeatTally:
        """Copy a seat's counters."""
        with self._lock:
            seat = self.seats[layer, replica]
            return dataclasses.replace(seat, staleness=seat.staleness.copy())

    def by_seat(self) -> list[SeatPushes]:
        """Count pushes and pulls by seat, for seats with any."""
        with self._lock:
            return [
                SeatPushes(
                    layer,
                    replica,
                    seat.pushes,
                    seat.pulls,
                    seat.duplicate_pushes,
                    seat.refused_pushes,
                    dict(seat.staleness),
                )
                for (layer, replica), seat in sorted(self.seats.items())
            ]

    def counters(self) -> Counters:
        """Build the message for a status; CPU and memory of the process are left out."""
        with self._lock:
            counts = {name: getattr(self, name) for name in KEPT}
            staleness = dict(sum(self.staleness.values(), Counter()))
        return Counters(staleness=staleness, **counts)

    def by_layer(self) -> list[LayerPushes]:
        """Count pushes by layer, for layers with pushes."""
        with self._lock:
            layers = sorted({*self.staleness, *self.refused})
            return [LayerPushes(k, dict(self.staleness.get(k, {})), self.refused[k]) for k in layers]
