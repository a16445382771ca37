"""What every benchmark says of repeated measurements."""

from __future__ import annotations

import statistics


def spread(values: list[float], digits: int = 4) -> dict[str, float]:
    """Median and quartiles; of a single value, that."""
    low, middle, high = statistics.quantiles(
        values * 2 if len(values) == 1 else values, n=4, method="inclusive"
    )
    return {"p25": round(low, digits), "median": round(middle, digits), "p75": round(high, digits)}
