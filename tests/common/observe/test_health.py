"""common.observe.health: /healthz fails once a part is old, by limits from heartbeats and snapshots."""

from __future__ import annotations

import json

import pytest

from common.observe.health import Pulse, health_page, silence_limit, snapshot_limit


def test_the_page_tells_the_age_of_each_part() -> None:
    page = health_page([Pulse("tick", 0.1234, 10.0), Pulse("snapshot", 61.0, 90.0)])
    assert (page.status, page.content_type) == (200, "application/json")
    assert json.loads(page.body) == {
        "status": "ok",
        "tick": {"status": "ok", "age_seconds": 0.123, "limit_seconds": 10.0},
        "snapshot": {"status": "ok", "age_seconds": 61.0, "limit_seconds": 90.0},
    }


def test_one_old_part_fails_the_process() -> None:
    page = health_page([Pulse("tick", 10.1, 10.0), Pulse("snapshot", 0.0, 90.0)])
    told = json.loads(page.body)
    assert page.status == 503
    assert [told["status"], told["tick"]["status"], told["snapshot"]["status"]] == ["failed", "failed", "ok"]


@pytest.mark.parametrize(("heartbeat", "misses", "limit"), [(1.0, 2, 10.0), (10.0, 3, 30.0), (0.05, 2, 10.0)])
def test_a_silence_is_too_long_once_a_lease_would_end(heartbeat: float, misses: int, limit: float) -> None:
    assert silence_limit(heartbeat, misses) == limit


@pytest.mark.parametrize(("interval", "limit"), [(30.0, 90.0), (0.1, 60.0), (600.0, 1800.0)])
def test_snapshots_are_late_after_three_intervals(interval: float, limit: float) -> None:
    assert snapshot_limit(interval) == limit
