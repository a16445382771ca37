"""The ways that are compared: what is read from a run, and where a curve comes to its target."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.spread import spread
from benchmarks.ways import Job, Layerwise, Rival, Way, batches_to, errors, rate_since, row


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


def _beat(layer: int, seconds: float, steps: int, step_seconds: float) -> dict[str, Any]:
    return {
        "kind": "heartbeat", "layer": layer, "seconds": seconds, "steps": steps, "step_seconds": step_seconds,
    }  # fmt: skip


SUMMARY = {
    "batches": 100, "batch_size": 10, "samples_per_second": 200.0, "test_error_percent": 4.0,
    "cpu_seconds": {"master": 0.5, "slaves": [4.0, 5.0]}, "waiting_fraction": {"1": 0.01, "2": 0.03},
}  # fmt: skip
LINES: list[dict[str, Any]] = [
    _beat(1, 1.0, 0, 0.0),
    _beat(1, 1.5, 9, 0.2),
    _beat(1, 2.0, 20, 0.5),
    {"kind": "evaluation", "batches": 50, "test_error_percent": 7.0},
    _beat(2, 2.5, 10, 1.0),
    _beat(1, 4.0, 100, 2.0),
    # It waits for the others.
    _beat(1, 6.0, 100, 2.0),
    _beat(2, 6.5, 90, 4.0),
]


def test_a_run_says_the_masters_share_the_bottleneck_and_each_layers_own_rate() -> None:
    found = row(SUMMARY, LINES)
    # 1,000 samples at 200 a second are 5 seconds.
    assert found["master_share"] == 0.1
    assert found["bottleneck"] == "2"
    # From the heartbeat after the tenth step on; the slowest is the pace.
    assert found["layer_rates"] == {"1": 80 * 10 / 2, "2": 80 * 10 / 4}
    assert found["samples_per_second"] == 80 * 10 / 4
    assert errors(LINES) == [(50, 7.0)]


def test_a_layer_that_was_seen_but_once_has_no_rate() -> None:
    found = row(SUMMARY, [_beat(1, 1.0, 100, 1.0)])
    assert found["layer_rates"] == {"1": None}
    assert found["samples_per_second"] == SUMMARY["samples_per_second"]


def test_between_two_statuses_the_slowest_layer_is_the_pace() -> None:
    def status(seconds: float, *seats: tuple[int, float]) -> dict[str, Any]:
        told = [{"telemetry": {"steps": steps}, "lease_age": age} for steps, age in seats]
        return {"training_seconds": seconds, "seats": told}

    # The first layer's 10 steps are those of second 3, the second's 20 those of second 3.5.
    then, now = status(4.0, (10, 1.0), (20, 0.5)), status(13.0, (110, 2.0), (110, 0.1))
    assert rate_since(then, now, 19) == round(min(100 * 19 / 10, 90 * 19 / 9.5), 1)


def test_every_way_has_a_name_of_its_own_and_takes_the_same_job() -> None:
    ways: list[Way] = [Rival("bp", 1), Rival("bp", 1, threads=2), Rival("ddp"), Layerwise("full", "basic")]
    assert [way.name for way in ways] == ["bp-1", "bp-2", "ddp", "full basic"]
    assert Job(("network.model=mlp",), 64, 10).sets("network.layers=2") == [
        "--set", "network.model=mlp", "--set", "run.batch_size=64", "--set", "run.batches=10",
        "--set", "network.layers=2",
    ]  # fmt: skip


def test_a_single_round_is_its_own_median() -> None:
    assert spread([2.0]) == {"p25": 2.0, "median": 2.0, "p75": 2.0}
