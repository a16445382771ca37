"""master.disk.retention: which snapshots are kept, over any history of snapshots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from master.disk.retention import AGES, HOUR, NEWEST, Taken, choose

# Both sets of the newest, and two of each age.
MOST_KEPT = 2 * NEWEST + 2 * len(AGES)
GAPS = st.floats(0.1, 8 * HOUR)
HISTORIES = st.lists(st.tuples(GAPS, st.booleans()), min_size=1, max_size=80)


def taken(steps: list[tuple[float, bool]]) -> list[list[Taken]]:
    """Snapshots that exist after each one was taken, as a master prunes them."""
    now, kept, history = 1e9, list[Taken](), list[list[Taken]]()
    for number, (gap, on_demand) in enumerate(steps, 1):
        now += gap
        kept = [*kept, Taken(number, now, on_demand)]
        chosen = choose(kept, now)
        kept = [each for each in kept if each.number in chosen]
        history.append(kept)
    return history


@given(HISTORIES)
def test_the_newest_are_kept_and_the_number_is_bounded(steps: list[tuple[float, bool]]) -> None:
    numbers = range(1, len(steps) + 1)
    for count, kept in enumerate(taken(steps), 1):
        for kind in (False, True):
            due = [number for number in numbers[:count] if steps[number - 1][1] is kind][-NEWEST:]
            assert {*due} <= {each.number for each in kept}
        assert len(kept) <= MOST_KEPT


@given(HISTORIES)
def test_snapshots_on_demand_take_no_place_of_periodic_ones(steps: list[tuple[float, bool]]) -> None:
    """The periodic ones that are kept are those that a choice among them alone keeps."""
    periodic, now = list[Taken](), 1e9
    for number, ((gap, on_demand), kept) in enumerate(zip(steps, taken(steps), strict=True), 1):
        now += gap
        if not on_demand:
            periodic.append(Taken(number, now))
        chosen = choose(periodic, now)
        periodic = [each for each in periodic if each.number in chosen]
        assert {each.number for each in kept if not each.on_demand} == {*chosen}


@given(HISTORIES)
def test_once_a_periodic_snapshot_has_reached_an_age_one_of_that_age_is_kept(
    steps: list[tuple[float, bool]],
) -> None:
    ever: list[Taken] = []
    for kept in taken(steps):
        ever.append(kept[-1])
        now = kept[-1].time
        for age in AGES:
            if any(now - each.time >= age for each in ever if not each.on_demand):
                assert any(now - each.time >= age for each in kept if not each.on_demand)


def test_a_days_snapshots_of_a_run_are_of_the_ages_that_are_promised() -> None:
    for kept in taken([(30.0, False)] * (3 * 24 * 120))[24 * 120 + 1 :]:
        ages = [kept[-1].time - each.time for each in kept]
        assert any(HOUR <= age <= 2 * HOUR + 120 for age in ages)
        assert any(24 * HOUR <= age <= 50 * HOUR for age in ages)


def test_a_clock_that_jumps_loses_no_newest_snapshot() -> None:
    kept = choose([Taken(1, 5e9), Taken(2, 1e9), Taken(3, 1e9 + 1), Taken(4, 1e9 + 2)], 1e9 + 2)
    assert {2, 3, 4} <= kept
