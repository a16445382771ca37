"""Figures of a run's status that are summed over seats. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from common.wire.messages import Seat


def waiting_fractions(seats: Iterable[Seat]) -> dict[int, float]:
    """Return the fraction of each layer's time in steps during which a step stood still."""
    stepping: Counter[int] = Counter()
    waiting: Counter[int] = Counter()
    for seat in seats:
        stepping[seat.layer] += seat.telemetry.step_seconds  # type: ignore[assignment]
        waiting[seat.layer] += seat.telemetry.waiting_seconds  # type: ignore[assignment]
    return {k: min(waiting[k] / stepping[k], 1.0) if stepping[k] else 0.0 for k in sorted(stepping)}
