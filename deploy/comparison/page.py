"""A comparison as a self-contained HTML page: no network, no script; light and dark, for every width."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.observe import measures
from deploy.comparison.results import first_metric, rows

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --rule: #d0d7de; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15191f; --ink: #e6edf3; --faint: #9198a1; --rule: #3d444d; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 56rem; padding: 1rem; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.1rem; margin: 0 0 0.5rem; }
p { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid var(--rule); padding: 0.35rem 0.6rem; text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 2rem 0; } img { height: auto; max-width: 100%; }
"""


def page(result: Mapping[str, Any], figures: Sequence[tuple[str, Mapping[str, Path]]]) -> str:
    """Render the page as HTML.

    Args:
        result: content of compare.json.
        figures: title of every figure, and its files for a light and a dark page.
    """
    title = html.escape(f"{result['name']}: methods compared")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
<h1>{title}</h1>
<p>{html.escape(_terms(result))}</p>
<div class="wide">{_table(result)}</div>
{"".join(_figure(name, files) for name, files in figures)}</html>
"""


def _titles(result: Mapping[str, Any]) -> tuple[str, ...]:
    metric = measures.axis(first_metric(result))
    return ("variant", metric, "test loss", "samples/s", "staleness p50/p99", "delay p50/p99")


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
    dark, light = _inline(files["dark"]), _inline(files["light"])
    return (
        f'<figure><h2>{name}</h2><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{name}"></picture></figure>\n'
    )


def _inline(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
