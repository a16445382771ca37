"""Prometheus' own tool on what is deployed, and each alert in a case of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from common.observe.metrics import DECLARED, sample_names
from deploy.dashboards.panels import DASHBOARDS

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (package prometheus)")


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        # The file of the token is not here.
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("check", "rules", "rules.yml", "alerts.yml"),
        ("test", "rules", "tests.yml"),
    ],
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text())


@pytest.mark.parametrize("alert", alerts())
def test_every_alert_has_a_case_that_fires_and_one_that_is_quiet(alert: str) -> None:
    text = (FOLDER / "tests.yml").read_text()
    assert re.search(rf"alertname: {alert}\s+exp_alerts:\s+- exp_labels", text)
    assert re.search(rf"eval_time: \w+, alertname: {alert}}}", text)


def test_whatever_is_asked_for_is_declared() -> None:
    known = {name for metric in DECLARED for name in sample_names(metric)}
    texts = [(FOLDER / name).read_text() for name in ("rules.yml", "alerts.yml", "tests.yml")]
    texts += [query.expr for page in DASHBOARDS for panel in page.panels for query in panel.queries]
    recorded = set(re.findall(r"record: (\S+)", texts[0]))
    for text in texts:
        assert set(re.findall(r"(?<![\w:])layerwise_\w+", text)) <= known | {"layerwise_"}
        assert set(re.findall(r"\b(?:layer|run):layerwise_\w+:\w+", text)) <= recorded


def test_every_declared_metric_is_looked_at_somewhere() -> None:
    texts = [(FOLDER / name).read_text() for name in ("rules.yml", "alerts.yml")]
    texts += [query.expr for page in DASHBOARDS for panel in page.panels for query in panel.queries]
    asked = "\n".join(texts)
    unseen = [m.name for m in DECLARED if not any(name in asked for name in sample_names(m))]
    assert unseen == []
