"""Plots of a comparison, for light and dark pages; lines differ by more than colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.observe import measures
from deploy.comparison.results import by_metric, first_metric, unit_metrics
from deploy.runs.files import write_file

mpl.use("Agg")
# Names come from outside: a dollar sign in them begins no formula.
mpl.rcParams["text.parse_math"] = False

_MARKS, _DASHES = "osD^vPX*<>", ("-", "--", "-.", ":")
# Colours of Okabe and Ito, distinct for any colour vision; two of low contrast on white or black are omitted.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK = {"light": ("#ffffff", "#1f2328", "#d0d7de"), "dark": ("#15191f", "#e6edf3", "#3d444d")}


@dataclass(frozen=True)
class Plot:
    """File name, title and drawing function of a figure."""

    name: str
    title: str
    draw: Callable[[Axes, Mapping[str, Any]], None]
    lines: bool


def draw(folder: Path, result: Mapping[str, Any]) -> list[tuple[str, dict[str, Path]]]:
    """Draw the figures, and return (title, {"light": file, "dark": file}) for every figure.

    Args:
        folder: destination, created if missing.
        result: content of compare.json.
    """
    folder.mkdir(exist_ok=True)
    figures = []
    for plot in _plots(result):
        files = {}
        for shade in _INK:
            files[shade] = folder / (f"{plot.name}.png" if shade == "light" else f"{plot.name}-{shade}.png")
            image = io.BytesIO()
            _render(plot, result, shade).savefig(image, dpi=110)
            write_file(files[shade], image.getvalue())
        figures.append((plot.title, files))
    return figures


def _plots(result: Mapping[str, Any]) -> list[Plot]:
    seconds = "virtual seconds" if result["in"] == "driver" else "seconds"
    metric = first_metric(result)
    stem, title = metric.removesuffix("_percent"), measures.title(metric)
    plots = [
        Plot(stem, f"Final {title}: mean, and each run", _ends, False),
        Plot(
            f"{stem}-by-batches",
            f"{title.capitalize()} by batches",
            lambda a, r: _curves(a, r, "batches"),
            True,
        ),
        Plot(
            f"{stem}-by-seconds",
            f"{title.capitalize()} by {seconds}",
            lambda a, r: _curves(a, r, "seconds"),
            True,
        ),
    ]
    for name in unit_metrics(result):
        plots.append(
            Plot(
                f"{name.removesuffix('_percent')}-by-batches",
                f"{measures.title(name).capitalize()} by batches",
                partial(_curves, by="batches", of_unit=name),
                True,
            )
        )
    if any(variant["slaves"] for variant in result["variants"]):
        plots.append(Plot("staleness", "Staleness of pushes and delay of gradients", _late, False))
    if any(variant["cosine"] for variant in result["variants"]):
        plots.append(Plot("cosine", "Cosine between M's and the true gradient", _cosines, True))
    return plots


def _render(plot: Plot, result: Mapping[str, Any], shade: str) -> Figure:
    paper, ink, rule = _INK[shade]
    style: Any = {
        "figure.facecolor": paper, "axes.facecolor": paper, "savefig.facecolor": paper, "text.color": ink,
        "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": rule,
        "grid.color": rule, "legend.edgecolor": rule, "legend.facecolor": paper, "font.size": 12,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    count = len(result["variants"])
    height = 4.2 + (0.22 * count if plot.lines else 0.0) if plot.lines else 1.4 + 0.34 * count
    with mpl.rc_context(style):
        axes = Figure(figsize=(6.4, height), layout="constrained").subplots()
        axes.grid(alpha=0.6, linewidth=0.6)
        plot.draw(axes, result)
        if plot.lines:
            # Names below the plot: beside it, they would leave no room for the lines on a telephone.
            axes.figure.legend(loc="outside lower center", ncols=2, fontsize=9, handlelength=3.2)
        figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def _look(place: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "marker": _MARKS[place % len(_MARKS)],
        "linestyle": _DASHES[place // len(_COLOURS) % len(_DASHES)],
    }


def _curves(axes: Axes, result: Mapping[str, Any], by: str, of_unit: str | None = None) -> None:
    """Draw the curves of the first metric, or of a metric of a unit's own."""
    metric = of_unit or first_metric(result)
    for place, variant in enumerate(by_metric(result)):
        curve = variant["unit_curves"].get(of_unit, []) if of_unit else variant["curve"]
        x = [point[by] for point in curve]
        look = _look(place)
        axes.plot(x, [p["mean"] for p in curve], label=variant["name"], markersize=4, linewidth=1.3, **look)
        low, high = [p["low"] for p in curve], [p["high"] for p in curve]
        axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
    # A metric that rises may begin at zero.
    scale = "linear" if measures.is_rising(metric) else "log"
    axes.set(xlabel=by, ylabel=measures.axis(metric), yscale=scale)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)


def _cosines(axes: Axes, result: Mapping[str, Any]) -> None:
    for place, variant in enumerate(by_metric(result)):
        if variant["cosine"]:
            x, y = zip(*((p["batches"], p["mean"]) for p in variant["cosine"]), strict=True)
            axes.plot(x, y, label=variant["name"], markersize=4, linewidth=1.3, **_look(place))
    axes.set(xlabel="batches", ylabel="cosine, a running mean, all layers with M", ylim=(None, 1.0))


def _ends(axes: Axes, result: Mapping[str, Any]) -> None:
    variants = by_metric(result)[::-1]
    for place, variant in enumerate(variants):
        error = variant["metrics"][variant["metric"]]
        if error["mean"] is None:
            continue
        axes.plot(
            error["values"],
            [place] * len(error["values"]),
            "|",
            color=mpl.rcParams["text.color"],
            markersize=13,
        )
        axes.plot(error["mean"], place, "o", color=_COLOURS[1], markersize=7)
        axes.annotate(
            format(error["mean"], measures.form(variant["metric"])), (error["mean"], place), (0, 7),
            textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(variants)), [variant["name"] for variant in variants])
    axes.set(xlabel=measures.axis(first_metric(result)), ylim=(-0.6, len(variants) - 0.2))
    axes.set_xlim(left=0)


def _late(axes: Axes, result: Mapping[str, Any]) -> None:
    variants = [variant for variant in by_metric(result)[::-1] if variant["slaves"]]
    for offset, name, unit, colour, hatch in (
        (0.2, "staleness", "pushes", _COLOURS[0], ""), (-0.2, "delay", "batches", _COLOURS[4], "///"),
    ):  # fmt: skip
        places = [place + offset for place in range(len(variants))]
        halves = [variant[name]["p50"] for variant in variants]
        most = [variant[name]["p99"] - half for variant, half in zip(variants, halves, strict=True)]
        axes.barh(places, halves, 0.36, color=colour, hatch=hatch, label=f"{name}, {unit}: median; 99 %")
        axes.barh(places, most, 0.36, left=halves, color=colour, hatch=hatch, alpha=0.4)
    axes.set_yticks(range(len(variants)), [variant["name"] for variant in variants])
    axes.set(xlabel="pushes, batches", ylim=(-0.6, len(variants) - 0.4))
    axes.legend(fontsize=8)
