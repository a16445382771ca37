"""master.progress: what counts as progress of a run, and how many successors came without."""

from __future__ import annotations

import pytest

from master.progress import Progress

VERSIONS = {"1/weights": 3}
# Two seats: first batch not seen, and leases granted.
SEATS = [(7, 1), (5, 1)]


def looked(*looks: tuple[dict[str, int], list[tuple[int, int]]]) -> Progress:
    """Look at a run, once in ten seconds from 100 s on."""
    progress = Progress()
    for count, (versions, seats) in enumerate(looks):
        progress.note(versions, seats, 100.0 + 10 * count)
    return progress


def test_before_the_first_look_no_time_counts() -> None:
    assert (Progress().still_seconds(500.0), Progress().successors) == (0.0, 0)


def test_a_master_counts_from_its_first_look_whatever_came_before() -> None:
    progress = looked((VERSIONS, [(7, 30), (5, 2)]))
    assert (progress.still_seconds(101.5), progress.successors) == (1.5, 0)


def test_successors_are_counted_as_long_as_the_run_gets_no_further() -> None:
    progress = looked((VERSIONS, SEATS), (VERSIONS, [(7, 2), (5, 1)]), (VERSIONS, [(7, 2), (5, 3)]))
    assert (progress.still_seconds(125.0), progress.successors) == (25.0, 3)


@pytest.mark.parametrize(
    ("versions", "seats"),
    [
        ({"1/weights": 4}, [(7, 2), (5, 1)]),
        ({**VERSIONS, "2/weights": 0}, [(7, 2), (5, 1)]),
        (VERSIONS, [(7, 2), (6, 1)]),
        # A rollback: the run begins at an earlier batch.
        (VERSIONS, [(0, 2), (0, 1)]),
    ],
)
def test_a_push_or_a_batch_is_progress_and_successors_count_anew(
    versions: dict[str, int], seats: list[tuple[int, int]]
) -> None:
    progress = looked((VERSIONS, SEATS), (versions, seats))
    assert (progress.still_seconds(112.0), progress.successors) == (2.0, 0)


def test_the_first_slave_of_a_seat_is_progress_and_no_successor() -> None:
    progress = looked(({}, [(0, 1), (0, 0)]), ({}, [(0, 2), (0, 0)]), ({}, [(0, 2), (0, 1)]))
    assert (progress.still_seconds(121.0), progress.successors) == (1.0, 0)
