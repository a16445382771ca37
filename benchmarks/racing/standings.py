"""Results of rows: target, seconds to the target, ratios to the best rival, tables. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import records
from benchmarks.racing.course import Progress
from benchmarks.racing.ways import WAYS
from benchmarks.spread import format_spread, spread

Row = Mapping[str, Any]
# Points (examples, seconds, loss).
Curve = Sequence[Sequence[float]]

# The target is the loss that one thread has after this share of its run.
SHARE = 0.75
# A row ends after this many times one thread's examples to the target, or this many times its seconds.
MOST_EXAMPLES, PATIENCE = 2.0, 5.0
# Seconds that a row always has, for trials with small networks.
LEAST_SECONDS = 60.0
# Points over which a curve is smoothed: their median, so that one good look reaches no target.
SMOOTHED = 3
# Share of a row's progress at its start that has no part in its rate.
WARM_SHARE = 0.1


def smooth(curve: Curve) -> list[tuple[float, float, float]]:
    """Return the curve with the median of each loss and its neighbours; the ends stay as they are."""
    losses = [point[2] for point in curve]
    reach = SMOOTHED // 2
    return [
        (examples, seconds, statistics.median(losses[place - reach : place + reach + 1]))
        if reach <= place < len(curve) - reach
        else (examples, seconds, loss)
        for place, (examples, seconds, loss) in enumerate(curve)
    ]


def choose_target(curve: Curve) -> float:
    """Return the lowest loss of one thread's smoothed curve up to `SHARE` of its examples."""
    end = SHARE * curve[-1][0]
    return min(loss for examples, _, loss in smooth(curve) if examples <= end)


def reach(curve: Curve, target: float) -> tuple[float, float] | None:
    """Return examples and seconds at which the smoothed curve reaches a loss, on the line between two looks.

    None if it never gets there. The last look has one neighbour, so it counts only where it ends the curve.
    """
    before: Sequence[float] | None = None
    for point in smooth(curve):
        if point[2] <= target:
            if before is None:
                return float(point[0]), float(point[1])
            part = (before[2] - target) / (before[2] - point[2])
            examples, seconds = (before[i] + part * (point[i] - before[i]) for i in (0, 1))
            return examples, seconds
        before = point
    return None


def is_beyond(curve: Curve, target: float) -> bool:
    """Whether a curve has reached the target some points before its end: more points change nothing."""
    return reach(curve[: -2 * SMOOTHED], target) is not None


def rate(progress: Progress) -> float | None:
    """Return examples per second between the warm start and the end; None of less than two points."""
    if not progress:
        return None
    within = [point for point in progress if point[0] >= WARM_SHARE * progress[-1][0]]
    (first, since), (last, until) = within[0], within[-1]
    return round((last - first) / (until - since), 1) if until > since else None


def seconds_to(row: Row, target: float) -> float | None:
    """Return a row's seconds to the target; None where it is not reached, or the network did not fit."""
    found = reach(row.get("curve", []), target)
    return found[1] if found else None


def ratios(turn: Mapping[str, Row], target: float) -> dict[str, float | None]:
    """Return each way's seconds over the best rival's, among the rows of a place in a round.

    A rival that does not reach the target, or does not fit, is no best one; without any the ratios are None.
    """
    seconds = {way: seconds_to(row, target) for way, row in turn.items()}
    rivals = [each for way, each in seconds.items() if each is not None and not WAYS[way].ours]
    best = min(rivals, default=None)
    return {way: each / best if each is not None and best else None for way, each in seconds.items()}


def table(rounds: Sequence[Mapping[str, Row]], target: float) -> str:
    """Format the table of one place: a line for every way; each round maps ways to rows."""
    shares = [ratios(turn, target) for turn in rounds]
    heads = ["way", "examples/s", "seconds to the target", "of the best rival", "kB an example", "peak MiB"]
    lines = []
    for way in WAYS:
        rows = [turn[way] for turn in rounds if way in turn]
        if not rows:
            continue
        name = f"**`{way}`**" if WAYS[way].ours else f"`{way}`"
        if not all(row["fits"] for row in rows):
            lines.append([name, *["does not fit"] * 2, "-", "-", "-"])
            continue
        lines.append([name, *_cells(rows, [each.get(way) for each in shares], target)])
    return records.markdown(heads, lines)


def _cells(rows: Sequence[Row], shares: Sequence[float | None], target: float) -> list[str]:
    rates = [row["examples_per_second"] for row in rows]
    nbytes = [row["bytes"] / row["examples"] / 1000 for row in rows if row["bytes"] and row["examples"]]
    seconds = [seconds_to(row, target) for row in rows]
    longest = max(row["seconds"] for row in rows)
    return [
        _spread(rates, ",.0f") or "-",
        _spread(seconds, ".1f") or f"not in {longest:.0f}",
        _spread(shares, ".2f") or "-",
        _spread(nbytes, ",.2f") or "-",
        _peaks(rows),
    ]


def _spread(values: Sequence[float | None], form: str) -> str:
    """Format median and quartiles, or the only value; empty if a round has no value."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return ""
    return format_spread(spread(known), form) if len(known) > 1 else format(known[0], form)


def _peaks(rows: Sequence[Row]) -> str:
    """Format the largest peak of every process over the rounds, in the order of the processes."""
    names = dict.fromkeys(name for row in rows for name in row["peak_mib"])
    return ", ".join(f"{max(row['peak_mib'].get(name, 0.0) for row in rows):.0f}" for name in names)
