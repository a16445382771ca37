"""`layerwise open RUN`: the live page of a run, or a page of the results."""

from __future__ import annotations

import html
import shlex
import webbrowser
from pathlib import Path

from common.errors import ConfigError
from common.text import answer
from deploy.pages.page import ANALYSIS_PAGE, COMPARISON_PAGE, RUN_PAGE, inline, table, wrap
from deploy.runs.directory import CONFIG, PLOTS
from deploy.runs.files import read_object, read_text, write_file
from deploy.runs.listing import RUNS, find_page
from deploy.runs.summary import SUMMARY
from deploy.screen import summary_rows


def open_page(run: str) -> int:
    """Print the address of a run's page, open it in a browser, and return the exit code.

    Args:
        run: a run directory, or the folder of a comparison or an analysis; or its name under runs/.

    Raises:
        ConfigError: there is no such folder, or nothing in it to show yet.
    """
    address = find_address(run)
    answer(address)
    webbrowser.open(address)
    return 0


def find_address(run: str) -> str:
    """Return the address of a run's page; a finished run's page is written first.

    Raises:
        ConfigError: there is no such folder, or nothing in it to show yet.
    """
    path = next((each for each in (Path(run), RUNS / run) if each.is_dir()), None)
    if path is None:
        raise ConfigError(
            f"open {run}: is no folder, here or in {RUNS}/; `layerwise runs` lists the runs of this machine"
        )
    live = find_page(path)
    if live is not None:
        return live
    if (path / SUMMARY).exists():
        write_file(path / RUN_PAGE, render(path).encode())
    pages = (path / name for name in (RUN_PAGE, COMPARISON_PAGE, ANALYSIS_PAGE))
    page = next((each for each in pages if each.exists()), None)
    if page is None:
        advice = "`layerwise runs` lists the runs of this machine"
        if (path / CONFIG).exists():
            advice = f"resume the run with: layerwise train --run-dir {shlex.quote(str(path))}"
        raise ConfigError(
            f"open {path}: holds no finished run, comparison or analysis, and no master that serves a live "
            f"page; {advice}"
        )
    return page.absolute().as_uri()


def render(path: Path) -> str:
    """Render the page of a finished run: summary, plots, configuration."""
    advice = "give the directory of a finished run"
    summary, config = read_object(path / SUMMARY, advice), read_text(path / CONFIG, advice)
    plots = "".join(
        f'<figure><img class="white" src="{inline(plot)}" alt="Plot: {html.escape(plot.stem)}"></figure>\n'
        for plot in sorted((path / PLOTS).glob("*.png"))
    )
    return wrap(
        f"{summary['name']}: {summary['dataset']}, {summary['model']}",
        f"{table(summary_rows(summary), name='Results')}\n{plots}"
        f'<h2>Configuration</h2>\n<pre tabindex="0">{html.escape(config)}</pre>\n',
    )
