"""Measures of layers over time: rates since the last look, and no value where nothing is measured."""

from __future__ import annotations

import math

import pytest

from common.wire.messages import Seat, StatusReply, Telemetry
from common.wire.use import Utilization
from master.web.history import History
from master.web.layers import MEASURES, LayerMeter


def seat(layer: int, incarnation: int, **told: object) -> Seat:
    return Seat(layer, state="training", incarnation=incarnation, telemetry=Telemetry(**told))  # type: ignore[arg-type]


def test_counters_are_read_as_rates_since_the_last_look() -> None:
    meter = LayerMeter()
    first = seat(1, 7, sent_bytes=1000, step_seconds=1.0, waiting_seconds=0.5, delays={2: 5})
    meter.read(StatusReply(seats=[first]), 10.0)
    later = seat(1, 7, sent_bytes=5000, step_seconds=3.0, waiting_seconds=1.0, delays={2: 5, 4: 3})
    read = meter.read(StatusReply(seats=[later]), 12.0)
    assert list(read["sent_bytes_per_second"]) == [2000]
    assert list(read["waiting_percent"]) == [25]
    assert list(read["delay"]) == [4]


def test_a_successor_s_counters_begin_anew() -> None:
    meter = LayerMeter()
    meter.read(StatusReply(seats=[seat(1, 7, sent_bytes=9000)]), 0.0)
    assert list(meter.read(StatusReply(seats=[seat(1, 8, sent_bytes=50)]), 1.0)["sent_bytes_per_second"]) == [
        0
    ]
    assert list(
        meter.read(StatusReply(seats=[seat(1, 8, sent_bytes=150)]), 2.0)["sent_bytes_per_second"]
    ) == [100]


def test_replicas_are_a_layer_and_gauges_are_their_mean() -> None:
    used = Utilization(cpu_percent=80)
    replicas = [seat(1, 1, gradient_cosine=0.5, samples_per_second=10.0, utilization=used)]
    replicas += [seat(1, 2, gradient_cosine=0.7, samples_per_second=30.0), seat(2, 3, loss=1.5)]
    read = LayerMeter().read(StatusReply(seats=replicas), 0.0)
    assert read["gradient_cosine"][0] == pytest.approx(0.6)
    assert list(read["samples_per_second"]) == [40, 0]
    assert read["cpu_percent"][0] == 80
    assert math.isnan(read["gradient_cosine"][1])
    assert read["loss"][1] == 1.5


def test_a_layer_without_a_slave_has_no_values_and_every_layer_has_its_place() -> None:
    history = History(1.0, ["error_percent"])
    for now in range(3):
        history.add(StatusReply(seats=[Seat(1), seat(2, 1, loss=0.123456)]), float(now))
    for measure in MEASURES:
        columns = history.by_layer(measure, epoch=100.0)
        assert columns["time"] == [100.0, 101.0, 102.0]
        assert len(columns["layers"]) == 2
        assert columns["layers"][0] == [None] * 3
    assert history.by_layer("loss")["layers"][1] == [0.1235] * 3
