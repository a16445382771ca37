"""The same pages as Prometheus' own console templates, which need no further server.

The numbers of the moment are put in by Prometheus; the charts are drawn by assets/console.js, which asks
Prometheus for what lies behind.
"""

from __future__ import annotations

from html import escape

from deploy.dashboards.panels import DASHBOARDS, Dashboard, Panel, Query

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>layerwise: {title}</title>
<link rel="stylesheet" href="../user/uPlot.min.css">
<link rel="stylesheet" href="../user/console.css">
<script src="../user/uPlot.iife.min.js" defer></script>
<script src="../user/console.js" defer></script>
</head>
<body>
<nav>{links}</nav>
<h1>{title}</h1>
<main>
{panels}
</main>
</body>
</html>
"""
_PANEL = """\
<section class="panel" data-unit="{unit}">
<h2>{title}</h2>
<p>{text}</p>
<div class="chart"></div>
<table>
{queries}
</table>
</section>"""
# A raw string of the template language ends at a backquote: no query has one.
_LABELS = (
    '{{ range $name, $value := .Labels }}{{ if ne $name "__name__" }}{{ $name }}={{ $value }} {{ end }}'
    "{{ end }}"
)
_QUERY = """\
<tbody data-expr="%(attribute)s" data-legend="%(legend)s">
{{ range query `%(expr)s` }}<tr><td>%(labels)s</td><td>{{ .Value | humanize }}</td></tr>
{{ end }}</tbody>"""


def encoded(page: Dashboard) -> str:
    """One page, as a template."""
    links = " ".join(
        f"<b>{other.title}</b>" if other is page else f'<a href="{other.name}.html">{other.title}</a>'
        for other in DASHBOARDS
    )
    panels = "\n".join(map(_panel, page.panels))
    return _PAGE.format(title=page.title, links=links, panels=panels)


def _panel(panel: Panel) -> str:
    queries = "\n".join(map(_query, panel.queries))
    return _PANEL.format(title=panel.title, text=panel.text, unit=panel.unit, queries=queries)


def _query(query: Query) -> str:
    # What is between double braces would be the template's own.
    legend = query.legend.replace("{{", "[[").replace("}}", "]]")
    attribute = escape(query.expr)
    return _QUERY % {"expr": query.expr, "attribute": attribute, "legend": escape(legend), "labels": _LABELS}
