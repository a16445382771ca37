"""The generated files that are checked in agree with the lists of metrics and panels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as schema

from common.observe.metrics import DECLARED, sample_names
from deploy.dashboards.__main__ import ROOT, generate
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


# Labels that every series has, by the process and by Prometheus' scrape.
EVERYWHERE = {"profile", "job", "instance"}
# Grafana's unit of a metric by the ends of its name; rates a second are `Bps` for bytes.
UNITS = {"_ratio": "percentunit", "_seconds": "s", "_bytes": "bytes"}
RULES = (ROOT / "deploy/prometheus/rules.yml").read_text()
EXPRESSIONS = dict(re.findall(r"- record: (\S+)\s+expr: (.*?)(?=\n +(?:- |#)|\Z)", RULES, re.DOTALL))
PANELS = [
    pytest.param(panel, id=f"{page.name}: {panel['title']}")
    for page in DASHBOARDS
    for panel in json.loads(encode(page))["panels"]
]


def labels_of(expression: str) -> set[str]:
    """Return the labels that a query's series have."""
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    if grouped:
        return {label.strip() for labels in grouped for label in labels.split(",")} - {"le"}
    if expression.startswith("sum("):
        return set()
    found = set(EVERYWHERE)
    for name in re.findall(r"[a-z_:]*layerwise_\w+(?::\w+)?", expression):
        if name in EXPRESSIONS:
            return labels_of(EXPRESSIONS[name])
        found |= {label for metric in DECLARED if name in sample_names(metric) for label in metric.labels}
    return found


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.name)
def test_a_dashboard_is_one_by_grafana_s_schema(page: Dashboard) -> None:
    built = json.loads(encode(page))
    # The schema drops what it does not know.
    assert json.loads(JSONEncoder(sort_keys=True).encode(schema.Dashboard.from_json(built))) == built
    assert built["uid"] == f"layerwise-{page.name}"
    assert {link["url"] for link in built["links"]} == {f"/d/layerwise-{each.name}" for each in DASHBOARDS}
    titles = [panel["title"] for panel in built["panels"]]
    assert len(set(titles)) == len(titles)
    assert [panel["id"] for panel in built["panels"]] == list(range(1, len(titles) + 1))


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["type"] == "timeseries"
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["targets"]
    assert "min" not in panel["fieldConfig"]["defaults"], "a value below 0 would not be seen"
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert unit in {"short", "Bps", *UNITS.values()}
    for target in panel["targets"]:
        for name in re.findall(r"layerwise_\w+", target["expr"]):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            wanted = next((UNITS[end] for end in UNITS if base.endswith(end)), None)
            # A core is no share, and panels of cores count them.
            if wanted and not base.endswith("process_utilization_ratio"):
                assert unit == wanted, base


@pytest.mark.parametrize("panel", PANELS)
def test_a_legend_names_labels_that_the_series_have(panel: dict[str, Any]) -> None:
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert all(legends)
    assert len(set(legends)) == len(legends)
    for target in panel["targets"]:
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert named <= labels_of(target["expr"]), target["expr"]


def test_panels_ask_the_data_source_that_is_provisioned() -> None:
    (file,) = (ROOT / "deploy/grafana/provisioning/datasources").glob("*.yml")
    source = dict(re.findall(r"^ +(?:- )?(\w+): (\S+)$", file.read_text(), re.MULTILINE))
    for page in DASHBOARDS:
        for panel in json.loads(encode(page))["panels"]:
            for each in (panel, *panel["targets"]):
                assert each["datasource"] == {"type": source["type"], "uid": source["uid"]}
