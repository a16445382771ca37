"""Parts of self-contained HTML pages: no network, no script; light and dark, for every width."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.pages.figures import Drawn

# Files of the pages: of a finished run, a comparison, an analysis.
RUN_PAGE, COMPARISON_PAGE, ANALYSIS_PAGE = "run.html", "compare.html", "analysis.html"

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --rule: #d0d7de; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15191f; --ink: #e6edf3; --faint: #9198a1; --rule: #3d444d; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 56rem; padding: 1rem; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.1rem; margin: 0 0 0.5rem; }
p { color: var(--faint); }
h1, p, figcaption { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid var(--rule); padding: 0.35rem 0.6rem; text-align: right;
  white-space: nowrap; }
th:first-child { text-align: left; }
tbody th { font-weight: inherit; }
.facts td { text-align: left; white-space: normal; width: 100%; }
.facts th { color: var(--faint); vertical-align: top; }
figure { margin: 2rem 0; } img { height: auto; max-width: 100%; }
figcaption, .note { color: var(--faint); font-size: 0.95rem; }
pre { overflow-wrap: anywhere; white-space: pre-wrap; }
:focus-visible { outline: 3px solid #0072b2; outline-offset: 2px; }
/* A plot that has one form alone, on white. */
@media (prefers-color-scheme: dark) { .white { filter: invert(0.92) hue-rotate(180deg); } }
"""


def wrap(title: str, body: str) -> str:
    """Return a page of this title, which is text, around a body, which is HTML."""
    title = html.escape(title)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
<main>
<h1>{title}</h1>
{body}</main>
</html>
"""


def inline(path: Path) -> str:
    """Return an image as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def figure(drawn: Drawn) -> str:
    """Return a figure with the title, its images for light and dark pages, and a caption if there is one."""
    name = html.escape(drawn.title)
    dark, light = inline(drawn.files["dark"]), inline(drawn.files["light"])
    caption = f"<figcaption>{html.escape(drawn.caption)}</figcaption>" if drawn.caption else ""
    return (
        f'<figure><h2>{name}</h2><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{name}"></picture>{caption}</figure>\n'
    )


def table(rows: Iterable[Iterable[str]], head: Iterable[str] = (), name: str = "Results") -> str:
    """Return a table of text that scrolls by itself, by keys too, where the page is too narrow.

    Args:
        rows: cells of each row; the first one names the row.
        head: titles of the columns; none: names and facts, which may take several lines.
        name: of the table, for a screen reader.
    """
    titles = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in head)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    whole = (f"<thead><tr>{titles}</tr></thead>" if titles else "") + f"<tbody>{body}</tbody>"
    kind = "" if titles else ' class="facts"'
    region = f'<div class="wide" role="region" tabindex="0" aria-label="{html.escape(name)}">'
    return f"{region}<table{kind}>{whole}</table></div>"


def _cells(row: Iterable[str]) -> str:
    first, *others = map(html.escape, row)
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)
