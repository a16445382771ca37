"""JSON of Grafana's dashboards."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos

from deploy.dashboards.panels import (
    BYTES,
    BYTES_PER_SECOND,
    DASHBOARDS,
    PLAIN,
    RATIO,
    SECONDS,
    Dashboard,
    Panel,
)

_UNITS = {SECONDS: "s", RATIO: "percentunit", BYTES: "bytes", BYTES_PER_SECOND: "Bps", PLAIN: "short"}
# The uid in deploy/grafana/provisioning/datasources.
_SOURCE = DataSourceRef(type_val="prometheus", uid="layerwise")
_WIDTH, _HEIGHT, _ROW = 12, 8, 24


def encode(page: Dashboard) -> str:
    """Return the JSON of a dashboard, ready to be provisioned."""
    builder = (
        dashboard.Dashboard(f"layerwise: {page.title}")
        .uid(f"layerwise-{page.name}")
        .tags(["layerwise"])
        .time("now-15m", "now")
        .refresh("5s")
        .readonly()
    )
    for other in DASHBOARDS:
        link = dashboard.DashboardLink(other.title).url(f"/d/layerwise-{other.name}").keep_time(True)
        builder.link(link)
    for number, panel in enumerate(page.panels):
        builder.with_panel(_build_panel(panel, number))
    return JSONEncoder(sort_keys=True, indent=2).encode(builder.build()) + "\n"


def _build_panel(panel: Panel, number: int) -> timeseries.Panel:
    column, row = number * _WIDTH % _ROW, number * _WIDTH // _ROW
    built = (
        timeseries.Panel()
        .id(number + 1)
        .title(panel.title)
        .description(panel.text)
        .unit(_UNITS[panel.unit])
        # From 0, but for what falls below: a cosine, or a user's loss.
        .axis_soft_min(0)
        .datasource(_SOURCE)
        .grid_pos(GridPos(h=_HEIGHT, w=_WIDTH, x=column, y=row * _HEIGHT))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull"])
        )
    )
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter)
        built.with_target(target.datasource(_SOURCE))
    return built
