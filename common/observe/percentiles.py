"""Quantiles of values that were counted."""

from __future__ import annotations

from collections.abc import Mapping


def percentiles(counts: Mapping[int, int]) -> dict[str, int]:
    """p50, p99 and max of values that are counted: value -> how often; zeros where there are none."""
    total = sum(counts.values())
    found = {"p50": 0, "p99": 0, "max": max(counts, default=0)}
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        seen = 0
        for value in sorted(counts):
            seen += counts[value]
            if seen >= part * total:
                found[name] = value
                break
    return found
