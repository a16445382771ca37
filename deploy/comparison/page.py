"""A comparison as a self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from common.observe import measures
from deploy.comparison.results import first_metric, rows, unit_metrics
from deploy.pages.figures import Drawn
from deploy.pages.page import figure, table, wrap


def page(result: Mapping[str, Any], figures: Sequence[Drawn]) -> str:
    """Render the page as HTML.

    Args:
        result: content of compare.json.
        figures: as drawn.
    """
    body = f"""<p>{html.escape(_terms(result))}</p>
{table(rows(dict(result)), _titles(result), "Methods compared")}
{"".join(map(figure, figures))}"""
    return wrap(f"{result['name']}: methods compared", body)


def _titles(result: Mapping[str, Any]) -> tuple[str, ...]:
    metrics = map(measures.axis, [first_metric(result), *unit_metrics(result)])
    return ("variant", *metrics, "test loss", "samples/s", "staleness p50/p99", "delay p50/p99")


def _terms(result: Mapping[str, Any]) -> str:
    """Describe the terms of the comparison: data, model, batches, place and seeds."""
    summary = result["variants"][0]["runs"][0]["summary"]
    seeds = result["seeds"]
    where = {
        "driver": "on simulated machines under a virtual clock",
        "cluster": "on a cluster of processes",
        "synchronous": "all layers in step",
    }[result["in"]]
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"{summary['dataset']}, {summary['model']}, {summary['batches']:,} batches of "
        f"{summary['batch_size']}, {where}; {spread}. The profile synchronous has no slaves, "
        "hence neither staleness nor delay."
    )
