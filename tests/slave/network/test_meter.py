"""slave.network.meter: a slave's counters for Prometheus."""

from __future__ import annotations

import json

import pytest

from slave.network.meter import Exposition, Meter


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
