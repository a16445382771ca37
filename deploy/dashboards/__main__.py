"""Write the files that are generated from the lists of metrics and panels; `make dashboards`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.observe import metrics
from deploy.dashboards import grafana
from deploy.dashboards.panels import DASHBOARDS

ROOT = Path(__file__).parents[2]


def generate() -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of every generated file."""
    yield ROOT / "docs/metrics.md", metrics.reference_page()
    for page in DASHBOARDS:
        yield ROOT / f"deploy/grafana/dashboards/{page.name}.json", grafana.encode(page)


if __name__ == "__main__":
    for path, text in generate():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
