"""Exponential moving average of weights over batches. No torch, no I/O, no clock."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Kinds of the shard that is averaged, and of the name that readers know its average by.
WEIGHTS, AVERAGE = "weights", "average"
# The average looks back on a tenth of the batches so far.
SPANS = 10


def share(before: float, after: float, horizon: float) -> float:
    """Return the share of the present weights in their average, whose other part is the average before.

    What the average keeps, 1 - share, decays by 1 / span a batch, where span is a tenth of the batches so
    far and at most `horizon`. So parts multiply: batches a to b and b to c keep what a to c do, and the first
    weights have the share 1, whatever the initial weights were.

    Args:
        before: batches that the average has seen.
        after: batches that the weights have seen.
        horizon: batches after which a weight's part in the average has fallen by e.
    """
    if before <= 0:
        return 1.0
    # From so many batches on the span is the horizon.
    full = SPANS * horizon
    growing = SPANS * math.log(min(after, full) / min(before, full))
    steady = (max(after, full) - max(before, full)) / horizon
    return -math.expm1(-growing - steady)


def move(average: Floats, weights: Floats, part: float, out: Floats) -> None:
    """Write average + part x (weights - average) to `out`, which may be `average`; all are (P,)."""
    if part == 1:
        np.copyto(out, weights)
        return
    change = weights - average
    change *= np.float32(part)
    np.add(average, change, out=out)
