"""Sum of the telemetry of several slaves, within the ranges of a message."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
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
# Upper ends of the summed fields.
_HIGHEST = {name: rule.high for name in SUMMED if isinstance(rule := RANGES[Telemetry][name], Range)}
# Work of nobody.
NONE = Telemetry()


def merge(first: Telemetry, second: Telemetry) -> Telemetry:
    """Add the telemetry of two slaves: sums, and the gauges of the second, present slave."""
    if first is NONE and max(second.delays, default=0) <= LONGEST_DELAY:
        return second
    summed: dict[str, Any] = {
        name: min(getattr(first, name) + getattr(second, name), high) for name, high in _HIGHEST.items()
    }
    return dataclasses.replace(
        second,
        next_batch=max(first.next_batch, second.next_batch),
        delays=add_delays((first.delays, second.delays)),
        peak_rss_bytes=max(first.peak_rss_bytes, second.peak_rss_bytes),
        **summed,
    )


def add_delays(parts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Add tables of delays, delay -> number of gradients."""
    total: Counter[int] = Counter()
    for part in parts:
        for delay, count in part.items():
            total[min(delay, LONGEST_DELAY)] += count
    return {delay: min(count, MOST) for delay, count in total.items() if count}
