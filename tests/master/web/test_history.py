"""History of the live page: bounded, over the whole run, with percentiles of the interval."""

from __future__ import annotations

import dataclasses
import itertools

from hypothesis import given
from hypothesis import strategies as st

from common.config.tasks import TASKS, USERS
from common.wire.counters import Counters
from common.wire.messages import Evaluation, Seat, StatusReply, Telemetry
from master.web.history import History, throughput

METRICS = TASKS["classification"].metrics


@given(st.integers(1, 400), st.sampled_from([2, 8, 20]))
def test_moments_are_bounded_and_reach_from_near_the_beginning_to_the_end(ticks: int, capacity: int) -> None:
    history = History(1.0, METRICS, capacity)
    for now in range(ticks):
        if history.due(now):
            history.add(StatusReply(batches=now), now)
    times = history.columns()["time"]
    assert 0 < len(times) <= capacity
    assert times == sorted(times)
    assert all(later - earlier <= 2 + 4 * ticks / capacity for earlier, later in itertools.pairwise(times))
    assert times[0] <= 2 * ticks / capacity
    assert ticks - 1 - times[-1] <= 2 * ticks / capacity


def test_quantiles_are_of_what_came_since_the_moment_before() -> None:
    history = History(1.0, METRICS)
    history.add(StatusReply(counters=Counters(staleness={0: 10}), delays={3: 5}), 0.0)
    history.add(StatusReply(counters=Counters(staleness={0: 10, 7: 1}), delays={3: 5}), 1.0)
    evaluated = Evaluation(10, 2.5, 0.1, {"1/weights": 3}, {"error_percent": 2.5})
    history.add(StatusReply(counters=Counters(staleness={0: 11, 7: 1}), evaluation=evaluated), 2.0)
    columns = history.columns()
    assert columns["staleness_p50"] == [0, 7, 0]
    assert columns["delay_p99"] == [3, None, None]
    assert columns["metric"] == [None, None, 2.5]


def test_a_task_without_metrics_is_shown_by_its_loss() -> None:
    history = History(1.0, USERS.metrics)
    history.add(StatusReply(evaluation=Evaluation(10, None, 0.1, {"1/weights": 3})), 0.0)
    assert history.columns()["metric"] == [0.1]


def test_throughput_is_that_of_the_slowest_layer_without_the_slaves_that_have_gone() -> None:
    def seat(layer: int, replica: int, rate: float) -> Seat:
        return Seat(layer, replica, incarnation=1, telemetry=Telemetry(samples_per_second=rate))

    seats = [seat(1, 0, 50), seat(1, 1, 60), seat(2, 0, 100)]
    assert throughput(StatusReply(seats=seats)) == 100
    seats[1] = dataclasses.replace(seats[1], incarnation=0)
    assert throughput(StatusReply(seats=seats)) == 50
    assert throughput(StatusReply()) == 0


def test_moments_go_by_a_monotonic_clock_and_are_shown_in_the_time_of_day() -> None:
    history = History(1.0, METRICS)
    for now in (50.0, 51.0, 52.0):
        assert history.due(now)
        history.add(StatusReply(), now)
    # Whatever the time of day is, and however it jumps, the distances stay.
    assert history.columns(1000.0)["time"] == [1050.0, 1051.0, 1052.0]
    assert history.columns(-3600.0)["time"] == [-3550.0, -3549.0, -3548.0]
