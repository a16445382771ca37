"""The generated files that are checked in agree with the lists of metrics and panels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.dashboards.__main__ import generate
from deploy.dashboards.grafana import encode
from deploy.dashboards.panels import DASHBOARDS, Dashboard

GENERATED = dict(generate())


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_a_checked_in_file_is_fresh(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == GENERATED[path], "run `make dashboards`"


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.name)
def test_grafana_has_every_query_at_a_position_of_its_own(page: Dashboard) -> None:
    built = json.loads(encode(page))
    asked = [target["expr"] for panel in built["panels"] for target in panel["targets"]]
    assert asked == [query.expr for panel in page.panels for query in panel.queries]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in built["panels"]]
    assert len(set(places)) == len(places)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in built["panels"])
