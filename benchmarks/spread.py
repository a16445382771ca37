"""What every benchmark says of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Mapping


def shown(found: Mapping[str, float], form: str) -> str:
    """What `spread` has found, each number in a format of Python's, as tables show it."""
    median, low, high = (format(found[name], form) for name in ("median", "p25", "p75"))
    return f"{median} ({low} to {high})"


def spread(values: list[float], digits: int = 4) -> dict[str, float]:
    """Median and quartiles; of a single value, that."""
    # Of a single one there are no quantiles.
    several = values if len(values) > 1 else values * 2
    low, middle, high = statistics.quantiles(several, n=4, method="inclusive")
    return {"p25": round(low, digits), "median": round(middle, digits), "p75": round(high, digits)}
