"""What is made from the lists of metrics and panels is what is checked in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.dashboards.__main__ import made
from deploy.dashboards.grafana import encoded
from deploy.dashboards.panels import DASHBOARDS, Dashboard

MADE = dict(made())


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_what_is_checked_in_is_fresh(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == MADE[path], "run `make dashboards`"


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.name)
def test_grafana_has_every_query_in_a_place_of_its_own(page: Dashboard) -> None:
    built = json.loads(encoded(page))
    asked = [target["expr"] for panel in built["panels"] for target in panel["targets"]]
    assert asked == [query.expr for panel in page.panels for query in panel.queries]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in built["panels"]]
    assert len(set(places)) == len(places)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in built["panels"])
