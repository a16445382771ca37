"""Progress of a run that Python has started: on the terminal, in a notebook's cell, or nowhere."""

from __future__ import annotations

import html
import io
import sys
import time
from typing import Any

from rich.console import RenderableType

from common.config.sections import Config
from deploy.console import PlainConsole
from deploy.screen import Screen

# Characters of a line in a notebook, which tells no width.
COLUMNS = 110
DRAW_SECONDS = 0.5


def open_screen(config: Config) -> Screen:
    """Show the progress where this process shows its output."""
    if not in_notebook():
        return Screen(config)
    # Standard output: a notebook paints standard error red.
    console = PlainConsole(file=sys.stdout, force_jupyter=False, width=COLUMNS)
    return Screen(config, console, Cell())


def open_no_screen(config: Config) -> Screen:
    """Show nothing of the progress."""
    return Screen(config, PlainConsole(quiet=True, force_terminal=False))


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


class Cell:
    """Output of a notebook's cell that is drawn again in its place."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display({"text/plain": ""}, raw=True, display_id=True)
        self._drawn_at = 0.0

    def update(self, renderable: RenderableType) -> None:
        """Draw a status, now and then."""
        if time.monotonic() - self._drawn_at >= DRAW_SECONDS:
            self._drawn_at = time.monotonic()
            console = PlainConsole(file=io.StringIO(), force_jupyter=False, width=COLUMNS)
            with console.capture() as capture:
                console.print(renderable)
            self._draw(capture.get())

    def stop(self) -> None:
        """Clear the output: the lines of the evaluations stay."""
        self._draw("")

    def _draw(self, text: str) -> None:
        page = f"<pre>{html.escape(text)}</pre>" if text else ""
        self._handle.update({"text/plain": text, "text/html": page}, raw=True)
