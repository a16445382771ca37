"""Sum of the telemetry of several slaves, within the ranges of a message."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from common.wire.messages import Telemetry
from common.wire.ranges import MOST, RANGES, Range

# Fields that add up; the rest are gauges.
SUMMED = (
    "steps", "lost_batches", "step_seconds", "waiting_seconds", "cpu_seconds", "pulls", "refused_from_below",
    "refused_from_above", "lost_states", "sent_bytes", "received_bytes",
)  # fmt: skip
# Longer delays count as this delay: the table stays bounded.
LONGEST_DELAY = 1024


def merge(first: Telemetry, second: Telemetry) -> Telemetry:
    """Add the telemetry of two slaves: sums, and the gauges of the second, present slave."""
    summed: dict[str, Any] = {name: _add(name, first, second) for name in SUMMED}
    delays: Counter[int] = Counter()
    for part in (first.delays, second.delays):
        for delay, count in part.items():
            delays[min(delay, LONGEST_DELAY)] += count
    return dataclasses.replace(
        second,
        next_batch=max(first.next_batch, second.next_batch),
        delays={delay: min(count, MOST) for delay, count in delays.items() if count},
        peak_rss_bytes=max(first.peak_rss_bytes, second.peak_rss_bytes),
        **summed,
    )


def _add(name: str, first: Telemetry, second: Telemetry) -> float:
    """Add a field of two slaves, up to the greatest value that a message may have."""
    rule = RANGES[Telemetry][name]
    assert isinstance(rule, Range)
    total: float = getattr(first, name) + getattr(second, name)
    return min(total, rule.high)
