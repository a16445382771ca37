"""Writes everything that is made from the lists of metrics and panels; `make dashboards`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.observe import metrics
from deploy.dashboards import consoles, grafana
from deploy.dashboards.panels import DASHBOARDS

ROOT = Path(__file__).parents[2]


def made() -> Iterator[tuple[Path, str]]:
    """Each file and what is in it."""
    yield ROOT / "docs/metrics.md", metrics.documented()
    for page in DASHBOARDS:
        yield ROOT / f"deploy/grafana/dashboards/{page.name}.json", grafana.encoded(page)
        yield ROOT / f"deploy/prometheus/consoles/{page.name}.html", consoles.encoded(page)


if __name__ == "__main__":
    for path, text in made():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
