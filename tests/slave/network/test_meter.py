"""slave.network.meter: a slave's counters for Prometheus."""

from __future__ import annotations

import json

import pytest

from common.wire.messages import JoinReply, Telemetry
from slave.network.meter import Exposition, Meter, Watched


def test_the_counter_of_lost_batches_does_not_fall_when_one_comes_after_all() -> None:
    meter = Meter()
    for lost, counted in ((0, 0), (3, 3), (1, 3), (4, 4)):
        meter.lost(lost)
        assert meter.lost_batches == counted


def test_a_slave_is_well_while_the_master_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Exposition(silence_limit=20.0)
    assert pages.health().status == 200
    monkeypatch.setattr(pages, "_answered_at", pages._answered_at - 21)
    page = pages.health()
    assert page.status == 503
    assert json.loads(page.body)["heartbeat"]["limit_seconds"] == 20.0
    pages.note_answer()
    assert pages.health().status == 200


def test_refused_messages_of_neighbours_are_counted() -> None:
    meter = Meter()
    for layer in (1, 3, 3):
        meter.refused(layer)
    watched = Watched(JoinReply(True, False, 2, 1, 7, 0, "run"), meter, Telemetry(), 0)
    page = Exposition("light", 8, lambda: watched).metrics()
    series = 'layerwise_refused_boundary_messages_total{layer="2",profile="light",replica="1"} 3.0'
    assert series in page.body.decode().splitlines()
    assert meter.refused_around(2) == (1, 2)
    # Layer K that broadcasts is above, too, however far.
    meter.refused(5)
    assert meter.refused_around(2) == (1, 3)
