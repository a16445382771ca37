"""slave.network.meter: a slave's counters for Prometheus."""

from __future__ import annotations

from slave.network.meter import Meter


def test_the_counter_of_lost_batches_does_not_fall_when_one_comes_after_all() -> None:
    meter = Meter()
    for lost, counted in ((0, 0), (3, 3), (1, 3), (4, 4)):
        meter.lost(lost)
        assert meter.lost_batches == counted
