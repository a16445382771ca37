"""Pieces of Markdown for generated pages."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def escape(text: str) -> str:
    """Escape what Markdown would take as markup in a sentence, but for code in backticks."""
    parts = text.split("`")
    plain = [_escape(part) for part in parts[::2]]
    code = [f"`{part}`" for part in parts[1::2]]
    return "".join(piece for pair in zip(plain, [*code, ""], strict=False) for piece in pair)


def _escape(text: str) -> str:
    text = html.escape(text, quote=False).replace("*", r"\*").replace("|", r"\|")
    # A brace at the end of a cell would begin a list of attributes.
    return text.replace("{", "&#123;")


def code(text: str) -> str:
    """Return text as inline code; in a table the site's Markdown takes a bar within it as text."""
    return f"`{text}`"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; without rows an empty text."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    head = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    return "\n".join([*head, *lines]) + "\n"


def sentence(text: str) -> str:
    """Return a line of help as a sentence."""
    return text[:1].upper() + text[1:].removesuffix(".") + "."
