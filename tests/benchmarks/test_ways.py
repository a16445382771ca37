"""The ways that are compared: what is read from a run, and where a curve comes to its target."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.spread import spread
from benchmarks.ways import Job, Layerwise, Rival, Way, batches_to, errors, row


@pytest.mark.parametrize(
    ("curve", "batches"),
    [
        ([(25, 9.0), (50, 5.0), (75, 1.0)], 62.5),
        ([(25, 9.0), (50, 3.0), (75, 1.0)], 50.0),
        # Only what was measured first is known.
        ([(25, 2.0), (50, 1.0)], 25.0),
        # It goes up again after: the first time counts.
        ([(25, 4.0), (50, 2.0), (75, 6.0)], 37.5),
        ([(25, 9.0), (50, 3.1)], None),
        ([], None),
    ],
)
def test_the_target_is_reached_on_the_line_between_two_evaluations(
    curve: list[tuple[int, float]], batches: float | None
) -> None:
    assert batches_to(curve, 3.0) == batches


def _status(seconds: float, cpu: float, *seats: tuple[int, float]) -> dict[str, Any]:
    """Of two layers: the steps that their last heartbeats told, and how old these are."""
    told = [
        {"layer": k, "lease_age": age, "telemetry": {"steps": steps, "step_seconds": k * seconds}}
        for k, (steps, age) in enumerate(seats, 1)
    ]
    counters = {"cpu_seconds": cpu}
    return {
        "training_seconds": seconds, "counters": counters, "seats": told, "waiting_fraction": {"2": 0.03}
    }  # fmt: skip


STATUSES = [
    _status(1.0, 5.0, (2, 0.0), (1, 0.0)),
    _status(2.0, 5.5, (20, 0.5), (9, 0.0)),
    _status(3.0, 5.6, (40, 0.5), (19, 0.0)),
    _status(5.0, 5.8, (80, 0.5), (59, 0.5)),
    # The last steps may have been long ago.
    _status(6.0, 7.0, (100, 0.0), (70, 0.5)),
    _status(8.0, 9.0, (100, 0.0), (100, 0.0)),
]


def test_a_rate_is_between_two_heartbeats_in_training_and_the_slowest_layers_is_the_pace() -> None:
    found = row(STATUSES, 10)
    assert found["layer_rates"] == {
        "1": round((80 - 20) * 10 / (4.5 - 1.5), 1),
        "2": round((70 - 19) * 10 / (5.5 - 3.0), 1),
    }
    assert found["samples_per_second"] == found["layer_rates"]["1"]
    assert found["bottleneck"] == "2"
    assert found["waiting_fraction"] == {"2": 0.03}


def test_the_masters_share_has_neither_its_start_nor_its_end_in_it() -> None:
    assert row(STATUSES, 10)["master_share"] == round((5.8 - 5.6) / (5.0 - 3.0), 4)


def test_a_run_that_is_too_short_for_two_heartbeats_has_what_it_took_in_all() -> None:
    found = row([_status(1.0, 0.4, (5, 0.0), (3, 0.0)), _status(4.0, 2.0, (30, 9.0), (30, 9.0))], 10)
    assert found["layer_rates"] == {"1": 75.0, "2": 75.0}
    assert found["master_share"] == 0.5


def test_a_curve_is_of_the_evaluations_alone() -> None:
    evaluation = {"kind": "evaluation", "batches": 50, "test_error_percent": 7.0}
    lines: list[dict[str, Any]] = [{"kind": "heartbeat"}, evaluation]
    assert errors(lines) == [(50, 7.0)]


def test_every_way_has_a_name_of_its_own_and_takes_the_same_job() -> None:
    ways: list[Way] = [Rival("bp", 1), Rival("bp", 1, threads=2), Rival("ddp"), Layerwise("full", "basic")]
    assert [way.name for way in ways] == ["bp-1", "bp-2", "ddp", "full basic"]
    assert Job(("network.model=mlp",), 64, 10).sets("network.layers=2") == [
        "--set", "network.model=mlp", "--set", "run.batch_size=64", "--set", "run.batches=10",
        "--set", "network.layers=2",
    ]  # fmt: skip


def test_a_single_round_is_its_own_median() -> None:
    assert spread([2.0]) == {"p25": 2.0, "median": 2.0, "p75": 2.0}
