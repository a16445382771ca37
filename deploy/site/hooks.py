"""Hooks of mkdocs: generated pages, links out of the documentation, equations."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from deploy.site import commands, configuration, examples, interface, wire
from deploy.site.diagrams import replace_diagrams
from deploy.site.links import ROOT_PAGES, move_links

ROOT = Path(__file__).parents[2]
DECISIONS = "decisions/README.md"
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give the navigation an entry for every decision of the table of decisions."""
    listed = re.findall(r"^\| \[[\w-]+\]\(([\w-]+\.md)\)", (ROOT / "docs" / DECISIONS).read_text(), re.M)
    config.nav = _fill(config.nav, [DECISIONS, *(f"decisions/{name}" for name in listed)])
    return config


def _fill(nav: Any, decisions: list[str]) -> Any:
    if isinstance(nav, list):
        return [_fill(each, decisions) for each in nav]
    if isinstance(nav, dict):
        return {title: _fill(each, decisions) for title, each in nav.items()}
    return decisions if nav == DECISIONS else nav


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the pages that lie beside the folder of the documentation."""
    pages = {
        configuration.PAGE: configuration.render(),
        commands.PAGE: commands.render(),
        interface.PAGE: interface.render(),
        wire.PAGE: wire.render((ROOT / "protos/layerwise.proto").read_text(encoding="utf-8")),
        examples.PAGE: examples.render(ROOT / "examples"),
        **{page: (ROOT / name).read_text(encoding="utf-8") for name, page in ROOT_PAGES.items()},
    }
    for place, content in pages.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead links to files of the repository to the site's pages, and draw diagrams."""
    return replace_diagrams(move_links(markdown, page.file.src_uri, ROOT))


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn equations into MathML, which browsers draw without a script."""
    return _EQUATION.sub(_draw_equation, content)


def _draw_equation(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    return convert(html.unescape(found[2]), display=display)
