"""Figures for light and dark pages; lines differ by more than colour."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from deploy.runs.files import write_file

mpl.use("Agg")
# Names come from outside: a dollar sign in them begins no formula.
mpl.rcParams["text.parse_math"] = False

_MARKS, _DASHES = "osD^vPX*<>", ("-", "--", "-.", ":")
# Colours of Okabe and Ito, distinct for any colour vision; two of low contrast on white or black are omitted.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK = {"light": ("#ffffff", "#1f2328", "#d0d7de"), "dark": ("#15191f", "#e6edf3", "#3d444d")}
# Inches.
WIDTH = 6.4


@dataclass(frozen=True)
class Plot:
    """Figure to draw.

    Attributes:
        name: of the file, without its ending.
        title: above the figure on a page.
        draw: fills an empty figure.
        height: in inches.
        caption: text below the figure on a page.
    """

    name: str
    title: str
    draw: Callable[[Figure], None]
    height: float
    caption: str = ""


@dataclass(frozen=True)
class Drawn:
    """Figure with its files for a page.

    Attributes:
        title: above the figure.
        files: PNG for a "light" and a "dark" page.
        caption: text below the figure.
    """

    title: str
    files: Mapping[str, Path]
    caption: str = ""


def draw(folder: Path, plots: Iterable[Plot]) -> list[Drawn]:
    """Draw every plot for light and dark pages, as NAME.png and NAME-dark.png.

    Args:
        folder: destination, created if missing.
        plots: to draw.
    """
    folder.mkdir(exist_ok=True)
    drawn = []
    for plot in plots:
        files = {}
        for shade in _INK:
            files[shade] = folder / (f"{plot.name}.png" if shade == "light" else f"{plot.name}-{shade}.png")
            write_file(files[shade], _render(plot, shade))
        drawn.append(Drawn(plot.title, files, plot.caption))
    return drawn


def _render(plot: Plot, shade: str) -> bytes:
    paper, ink, rule = _INK[shade]
    style: Any = {
        "figure.facecolor": paper, "axes.facecolor": paper, "savefig.facecolor": paper, "text.color": ink,
        "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": rule,
        "grid.color": rule, "legend.edgecolor": rule, "legend.facecolor": paper, "font.size": 12,
        "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    image = io.BytesIO()
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH, plot.height), layout="constrained")
        plot.draw(figure)
        figure.savefig(image, dpi=110)
    return image.getvalue()


def on_axes(draw: Callable[[Axes], None], *, names_below: bool = False) -> Callable[[Figure], None]:
    """Return a function that fills a figure of one pair of axes.

    Args:
        draw: fills the axes.
        names_below: put the lines' names below the plot; beside it, they would leave no room for the lines on
            a telephone.
    """

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(alpha=0.6, linewidth=0.6)
        draw(axes)
        if names_below:
            figure.legend(loc="outside lower center", ncols=2, fontsize=9, handlelength=3.2)

    return fill


def logarithmic(axes: Axes) -> None:
    """Give the y axis of drawn lines a logarithmic scale, with plain numbers, not too many, beside it."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    between = range(2, 10) if decades < 1 else (2, 5) if decades < 3 else ()
    axes.yaxis.set_minor_locator(LogLocator(subs=between))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="minor", labelsize=8)


def look(place: int) -> dict[str, Any]:
    """Return colour, mark and dashes of the line at a place, from 0."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": _MARKS[place % len(_MARKS)],
        "linestyle": _DASHES[place // len(COLOURS) % len(_DASHES)],
    }
