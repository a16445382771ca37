"""Median and quartiles of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Mapping


def format_spread(values: Mapping[str, float], form: str) -> str:
    """Format the result of `spread` for tables, every number by a format of Python's."""
    median, low, high = (format(values[name], form) for name in ("median", "p25", "p75"))
    return f"{median} ({low} to {high})"


def spread(values: list[float], digits: int = 4) -> dict[str, float]:
    """Compute the median and the quartiles; all equal a single value."""
    # `statistics.quantiles` needs two values.
    several = values if len(values) > 1 else values * 2
    low, middle, high = statistics.quantiles(several, n=4, method="inclusive")
    return {"p25": round(low, digits), "median": round(middle, digits), "p75": round(high, digits)}
