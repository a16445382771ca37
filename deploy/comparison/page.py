"""A comparison as a self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.observe import measures
from deploy.comparison.results import first_metric, rows, unit_metrics
from deploy.runs.pages import inline, wrap


def page(result: Mapping[str, Any], figures: Sequence[tuple[str, Mapping[str, Path]]]) -> str:
    """Render the page as HTML.

    Args:
        result: content of compare.json.
        figures: title of every figure, and its files for a light and a dark page.
    """
    body = f"""<p>{html.escape(_terms(result))}</p>
<div class="wide">{_table(result)}</div>
{"".join(_figure(name, files) for name, files in figures)}"""
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


def _table(result: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in _titles(result))
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows(dict(result))
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(title: str, files: Mapping[str, Path]) -> str:
    name = html.escape(title)
    dark, light = inline(files["dark"]), inline(files["light"])
    return (
        f'<figure><h2>{name}</h2><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{name}"></picture></figure>\n'
    )
