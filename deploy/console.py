"""Tables and lines for a terminal, in which text from outside is never markup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from common.text import printable


class PlainConsole(Console):
    """Console of the whole command line: no markup, no emoji codes, control characters escaped.

    Args:
        stderr: print on standard error; by default on standard output.
        options: further ones of rich.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **keywords: Any) -> Text:
        """Convert a string to rich's text; widths are measured after escaping."""
        return super().render_str(printable(text), **keywords)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object; segments of text that did not come by way of a string are escaped too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else _escape(segment)


def _escape(segment: Segment) -> Segment:
    lines = segment.text.split("\n")
    if all(map(str.isprintable, lines)):
        return segment
    return Segment("\n".join(map(printable, lines)), segment.style)
