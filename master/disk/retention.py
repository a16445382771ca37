"""Choice of the snapshots that are kept. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

# Newest snapshots kept of each kind: periodic ones, and those taken on demand.
NEWEST = 3
HOUR = 3600.0
# A periodic snapshot of at least each age is kept.
AGES = (HOUR, 24 * HOUR)


@dataclass(frozen=True, slots=True)
class Taken:
    """Snapshot that was taken.

    Attributes:
        number: counts the run's snapshots.
        time: seconds of the epoch.
        on_demand: whether a user asked for the snapshot.
    """

    number: int
    time: float
    on_demand: bool = False


def choose(taken: Iterable[Taken], now: float) -> frozenset[int]:
    """Choose the snapshots to keep, by number.

    Of the snapshots on demand the newest few are kept. Of the periodic ones are kept the newest few; for each
    age the youngest that has reached the age; and for each age the oldest that has not, to take that place
    later. Hence once a run is older than an age, a snapshot of one to two times the age exists.

    Args:
        taken: snapshots of a run.
        now: seconds of the epoch.
    """
    ordered = sorted(taken, key=lambda each: each.number)
    demanded = [each.number for each in ordered if each.on_demand]
    periodic = [each for each in ordered if not each.on_demand]
    kept = {*demanded[-NEWEST:], *(each.number for each in periodic[-NEWEST:])}
    for age in AGES:
        kept |= _of_age(periodic, now - age)
    return frozenset(kept)


def _of_age(periodic: Collection[Taken], before: float) -> set[int]:
    """Choose the last snapshot taken by a time, and the first taken later."""
    ripe = [each for each in periodic if each.time <= before]
    growing = [each for each in periodic if each.time > before]
    found = set()
    if ripe:
        found.add(max(ripe, key=lambda each: (each.time, each.number)).number)
    if growing:
        found.add(min(growing, key=lambda each: (each.time, each.number)).number)
    return found
