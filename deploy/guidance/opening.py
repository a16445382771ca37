"""`layerwise open RUN`: the live page of a run, or a page of the results."""

from __future__ import annotations

import html
import webbrowser
from pathlib import Path

from common.errors import ConfigError
from common.text import answer
from deploy.comparison.compare import PAGE as COMPARISON_PAGE
from deploy.pages.page import inline, wrap
from deploy.runs.directory import CONFIG, PLOTS
from deploy.runs.files import read_object, read_text, write_file
from deploy.runs.listing import RUNS, find_page
from deploy.runs.summary import SUMMARY
from deploy.screen import summary_rows

PAGE = "run.html"


def open_page(run: str) -> int:
    """Print the address of a run's page, open it in a browser, and return the exit code.

    Args:
        run: a run directory or a comparison's folder, or such a folder's name under runs/.

    Raises:
        ConfigError: there is no such folder, or nothing in it to show yet.
    """
    address = find_address(run)
    answer(address)
    webbrowser.open(address)
    return 0


def find_address(run: str) -> str:
    """Return the address of a run's page; a finished run's page is written first."""
    path = next((each for each in (Path(run), RUNS / run) if each.is_dir()), None)
    if path is None:
        raise ConfigError(
            f"open {run}: is no folder, here or in {RUNS}/; `layerwise runs` lists the runs of this machine"
        )
    live = find_page(path)
    if live is not None:
        return live
    page = path / COMPARISON_PAGE
    if not page.exists():
        page = path / PAGE
        if not (path / SUMMARY).exists():
            raise ConfigError(
                f"open {path}: holds no finished run, and no master that serves a live page; resume the run "
                f"with: layerwise train --run-dir {path}"
            )
        write_file(page, render(path).encode())
    return page.absolute().as_uri()


def render(path: Path) -> str:
    """Render the page of a finished run: summary, plots, configuration."""
    advice = "give the directory of a finished run"
    summary, config = read_object(path / SUMMARY, advice), read_text(path / CONFIG, advice)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in summary_rows(summary)
    )
    plots = "".join(
        f'<figure><img src="{inline(plot)}" alt="{html.escape(plot.stem)}"></figure>\n'
        for plot in sorted((path / PLOTS).glob("*.png"))
    )
    return wrap(
        f"{summary['name']}: {summary['dataset']}, {summary['model']}",
        f'<div class="wide"><table><tbody>{rows}</tbody></table></div>\n{plots}'
        f"<h2>Configuration</h2>\n<pre>{html.escape(config)}</pre>\n",
    )
