"""An analysis as a self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Sequence

from common.observe import measures
from deploy.analysis.measures import Measured
from deploy.pages.figures import Drawn
from deploy.pages.page import figure, table, wrap

_TITLES = ("network", "run", "unlock", "profile", "layers", "batch", "result")


def page(measured: Sequence[Measured], figures: Sequence[Drawn]) -> str:
    """Render the page as HTML: networks, plots, omissions.

    Args:
        measured: the networks.
        figures: as drawn.
    """
    run = measured[0].subject.run
    body = f"""<p>A unit is the smallest part of a network; a layer, one or several units, trains by itself. \
M is the network that predicts a layer's gradient.</p>
{table(map(_row, measured), _TITLES, "Networks analyzed")}
{"".join(map(figure, figures))}{_omissions(measured)}"""
    return wrap(f"{run.config.run.name}: networks analyzed", body)


def _row(each: Measured) -> list[str]:
    run, known = each.subject.run, each.subject.evaluation
    decoupling = run.config.decoupling
    name = next(iter(run.config.metrics), None)
    value = known.metrics.get(name) if known and name else None
    result = (
        "-"
        if name is None or value is None
        else f"{measures.format_value(name, value)} {measures.title(name)}"
    )
    unlock = (
        f"{decoupling.unlock}, {decoupling.gradient}" if decoupling.row.synthesizes else decoupling.unlock
    )
    return [
        each.title, run.name, unlock, run.config.cluster.profile, str(run.config.layers),
        f"{each.subject.point.batch:,}", result,
    ]  # fmt: skip


def _omissions(measured: Sequence[Measured]) -> str:
    """List the omissions, with the networks for each reason."""
    reasons: dict[str, list[str]] = {}
    for each in measured:
        for reason in each.omitted:
            reasons.setdefault(reason, []).append(each.title)
    if not reasons:
        return ""
    items = "".join(
        f"<li>{html.escape(', '.join(names))}: {html.escape(reason)}</li>"
        for reason, names in reasons.items()
    )
    return f'<h2>Left out</h2>\n<ul class="note">{items}</ul>\n'
