"""Plots of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from common.observe import measures
from deploy.comparison.results import by_metric, first_metric, unit_metrics
from deploy.pages import figures
from deploy.pages.figures import COLOURS, Drawn, Plot, logarithmic, look, on_axes


def draw(folder: Path, result: Mapping[str, Any]) -> list[Drawn]:
    """Draw the figures.

    Args:
        folder: destination, created if missing.
        result: content of compare.json.
    """
    return figures.draw(folder, _plots(result))


def _plots(result: Mapping[str, Any]) -> list[Plot]:
    seconds = "virtual seconds" if result["in"] == "driver" else "seconds"
    metric = first_metric(result)
    stem, title = metric.removesuffix("_percent"), measures.title(metric)
    plots = [
        _ends_plot(result, stem, f"Final {title}: mean, and each run", _ends),
        _lines_plot(
            result, f"{stem}-by-batches", f"{title.capitalize()} by batches", partial(_curves, by="batches")
        ),
        _lines_plot(
            result, f"{stem}-by-seconds", f"{title.capitalize()} by {seconds}", partial(_curves, by="seconds")
        ),
    ]
    for name in unit_metrics(result):
        stem, title = name.removesuffix("_percent"), measures.title(name).capitalize()
        curves = partial(_curves, by="batches", of_unit=name)
        plots.append(_lines_plot(result, f"{stem}-by-batches", f"{title} by batches", curves))
    if any(variant["slaves"] for variant in result["variants"]):
        plots.append(_ends_plot(result, "staleness", "Staleness of pushes and delay of gradients", _late))
    if any(variant["cosine"] for variant in result["variants"]):
        plots.append(_lines_plot(result, "cosine", "Cosine between M's and the true gradient", _cosines))
    return plots


def _lines_plot(
    result: Mapping[str, Any], name: str, title: str, curves: Callable[[Axes, Mapping[str, Any]], None]
) -> Plot:
    height = 4.2 + 0.22 * len(result["variants"])
    return Plot(name, title, on_axes(lambda axes: curves(axes, result), names_below=True), height)


def _ends_plot(
    result: Mapping[str, Any], name: str, title: str, bars: Callable[[Axes, Mapping[str, Any]], None]
) -> Plot:
    return Plot(name, title, on_axes(lambda axes: bars(axes, result)), 1.4 + 0.34 * len(result["variants"]))


def _curves(axes: Axes, result: Mapping[str, Any], by: str, of_unit: str | None = None) -> None:
    """Draw the curves of the first metric, or of a metric of a unit's own."""
    metric = of_unit or first_metric(result)
    for place, variant in enumerate(by_metric(result)):
        curve = variant["unit_curves"].get(of_unit, []) if of_unit else variant["curve"]
        x = [point[by] for point in curve]
        style = look(place)
        axes.plot(x, [p["mean"] for p in curve], label=variant["name"], markersize=4, linewidth=1.3, **style)
        low, high = [p["low"] for p in curve], [p["high"] for p in curve]
        axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
    # A metric that rises may begin at zero.
    axes.set(xlabel=by, ylabel=measures.axis(metric))
    if not measures.is_rising(metric):
        logarithmic(axes)


def _cosines(axes: Axes, result: Mapping[str, Any]) -> None:
    for place, variant in enumerate(by_metric(result)):
        if variant["cosine"]:
            x, y = zip(*((p["batches"], p["mean"]) for p in variant["cosine"]), strict=True)
            axes.plot(x, y, label=variant["name"], markersize=4, linewidth=1.3, **look(place))
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
        axes.plot(error["mean"], place, "o", color=COLOURS[1], markersize=7)
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
        (0.2, "staleness", "pushes", COLOURS[0], ""), (-0.2, "delay", "batches", COLOURS[4], "///"),
    ):  # fmt: skip
        places = [place + offset for place in range(len(variants))]
        halves = [variant[name]["p50"] for variant in variants]
        most = [variant[name]["p99"] - half for variant, half in zip(variants, halves, strict=True)]
        axes.barh(places, halves, 0.36, color=colour, hatch=hatch, label=f"{name}, {unit}: median; 99 %")
        axes.barh(places, most, 0.36, left=halves, color=colour, hatch=hatch, alpha=0.4)
    axes.set_yticks(range(len(variants)), [variant["name"] for variant in variants])
    axes.set(xlabel="pushes, batches", ylim=(-0.6, len(variants) - 0.4))
    axes.legend(fontsize=8)
