"""Percentiles of counted values."""

from __future__ import annotations

from collections.abc import Mapping


def percentiles(counts: Mapping[int, int]) -> dict[str, int]:
    """Return p50, p99 and max of counted values (value -> count); zeros without values."""
    total = sum(counts.values())
    result = {"p50": 0, "p99": 0, "max": max(counts, default=0)}
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        seen = 0
        for value in sorted(counts):
            seen += counts[value]
            if seen >= part * total:
                result[name] = value
                break
    return result
