"""Places of slaves on the seats of a stage: faster machines take layers with more work. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from common.wire.messages import Telemetry
from common.wire.telemetry import merge
from master.lease import Lease, Place

# A machine is faster, or a layer has more work, by such a factor: measurements of equal ones differ by less.
FASTER, HEAVIER = 1.25, 1.1


def step_seconds(leases: Iterable[Lease]) -> dict[int, float]:
    """Return the computing time of a batch by layer, in seconds; 1 before the first batch of a layer."""
    totals: dict[int, Telemetry] = {}
    for lease in leases:
        totals[lease.layer] = merge(totals.get(lease.layer, Telemetry()), lease.total())
    return {
        k: max(total.step_seconds - total.waiting_seconds, 1e-9) / total.steps if total.steps else 1.0
        for k, total in totals.items()
    }


def is_even(work: Mapping[int, float]) -> bool:
    """Whether all layers have like work, as far as that is known."""
    return bool(work) and max(work.values()) < HEAVIER * min(work.values())


def deal_first(
    places: Sequence[Place], speeds: Mapping[str, float], work: Mapping[int, float]
) -> dict[Place, str]:
    """Return the slave of each place at a run's beginning, as far as there are slaves.

    Args:
        places: seats, the lowest layer first; seats of like work are taken in this order.
        speeds: by slave; 0: unknown.
        work: of a batch by layer, in any unit; empty: unknown.
    """
    return assign(places, {}, [*speeds], speeds, {} if is_even(work) else work)


def assign(
    places: Sequence[Place],
    former: Mapping[Place, str],
    spares: Sequence[str],
    speeds: Mapping[str, float],
    work: Mapping[int, float],
) -> dict[Place, str]:
    """Return the slave of each place, as far as there are slaves; where nothing is gained slaves stay.

    Args:
        places: seats of the stage, by layer and replica.
        former: slaves of the stage before, by seat.
        spares: slaves that wait for a seat.
        speeds: by slave, in units of one kind; 0 or none: unknown, as the slowest that is known.
        work: by layer, computing time of a batch times speed.
    """
    known = [speed for speed in speeds.values() if speed > 0]
    unknown = min(known, default=1.0)

    def speed(slave: str) -> float:
        return speeds.get(slave, 0.0) or unknown

    found = {place: former[place] for place in places if place in former}
    others = [slave for place, slave in former.items() if place not in found] + [*spares]
    heaviest = sorted(places, key=lambda place: -work.get(place[0], 0.0))
    for place in heaviest:
        if place not in found and others:
            others.remove(best := max(others, key=speed))
            found[place] = best
    taken = [place for place in heaviest if place in found]
    for n, place in enumerate(taken):
        lighter = [each for each in taken[n:] if _is_heavier(work, place, each)]
        fast = max(lighter, key=lambda each: speed(found[each]), default=place)
        if speed(found[fast]) >= FASTER * speed(found[place]):
            found[place], found[fast] = found[fast], found[place]
    return found


def _is_heavier(work: Mapping[int, float], one: Place, other: Place) -> bool:
    return work.get(one[0], 0.0) >= HEAVIER * work.get(other[0], 0.0)
