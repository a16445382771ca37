"""Plots of an analysis, with captions on reading and result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deploy.analysis import sentences
from deploy.analysis.gradients import Surface
from deploy.analysis.measures import Measured
from deploy.analysis.telemetry import LOSS, MEASURES
from deploy.pages.figures import Plot, logarithmic, look, on_axes

Synthesis = Mapping[str, Mapping[int, Sequence[Mapping[str, float]]]]

# Units of a network whose matrices are drawn, and matrices in a row.
MOST_MATRICES, COLUMNS = 25, 5
# Lines that a legend names; more have a scale of colours.
MOST_NAMED = 6
# Boundaries of a network that lines mark; more would hide the curves.
MOST_BOUNDARIES = 3


def plots(measured: Sequence[Measured], synthesis: Synthesis) -> list[Plot]:
    """List the plots of networks and of M over time; plots without a line are left out."""
    compared = [each for each in measured if each.distances is not None]
    found = [_matrices_plot(each, number) for number, each in enumerate(compared, 1)]
    if compared:
        found += [_distance_plot(compared), _between_plot(compared)]
    probed = [each for each in measured if each.probes]
    if probed:
        found += [_probe_plot(probed, "training", 0), _probe_plot(probed, "test", 1)]
    found.append(_norm_plot(measured))
    changed = [each for each in measured if each.updates and any(each.updates)]
    if changed:
        found.append(_update_plot(changed))
    with_m = [each for each in measured if each.gradients]
    if with_m:
        found += [
            _gradient_plot(with_m, "cosine", "M's cosine with the true gradient, by layer"),
            _gradient_plot(with_m, "norm_ratio", "Norm of M's gradient over the true one's, by layer"),
        ]
    for number, (name, rows) in enumerate(synthesis.items(), 1):
        if rows:
            found.append(_synthesis_plot(name, number, rows))
    found += [_surface_plot(each, number) for number, each in enumerate(measured, 1) if each.surfaces]
    return found


def _matrices_plot(each: Measured, number: int) -> Plot:
    shown = len(each.matrices)
    places = np.unique(np.linspace(0, shown - 1, min(shown, MOST_MATRICES)).astype(int)).tolist()
    lines = math.ceil(len(places) / COLUMNS)
    # Noise of more colours makes large files.
    few = mpl.colormaps["viridis"].resampled(15)

    def fill(figure: Figure) -> None:
        axes = np.atleast_1d(figure.subplots(lines, min(COLUMNS, len(places)), squeeze=False)).ravel()
        for ax in axes[len(places) :]:
            ax.set_visible(False)
        for ax, place in zip(axes, places, strict=False):
            image = ax.imshow(each.matrices[place], vmin=0, vmax=1.5, cmap=few, interpolation="nearest")
            ax.set_title(f"unit {each.units[place]}", fontsize=9)
            ax.set(xticks=[], yticks=[])
        bar = figure.colorbar(image, ax=axes.tolist(), location="bottom", shrink=0.6, pad=0.02, aspect=40)
        bar.set_label("1 - correlation", fontsize=10)

    return Plot(
        f"dissimilarity-{number}", f"{each.title}: dissimilarity of examples, unit by unit", fill,
        1.0 + 1.45 * lines, sentences.matrices(each),
    )  # fmt: skip


def _between_plot(measured: Sequence[Measured]) -> Plot:
    columns = min(3, len(measured))
    lines = math.ceil(len(measured) / columns)
    top = max(float(each.distances.max()) for each in measured if each.distances is not None)

    def fill(figure: Figure) -> None:
        axes = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).ravel()
        for ax in axes[len(measured) :]:
            ax.set_visible(False)
        for ax, each in zip(axes, measured, strict=False):
            assert each.distances is not None
            low, high = each.units[0] - 0.5, each.units[-1] + 0.5
            image = ax.imshow(each.distances, vmin=0, vmax=top, cmap="viridis", extent=(low, high, high, low))
            ax.set_title(each.title, fontsize=9)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            ax.tick_params(labelsize=8)
        bar = figure.colorbar(image, ax=axes.tolist(), location="bottom", shrink=0.6, pad=0.02, aspect=40)
        bar.set_label("distance of two units", fontsize=10)

    return Plot(
        "between-units", "Distance between units", fill, 0.9 + 6.0 / columns * lines,
        sentences.between(measured),
    )  # fmt: skip


def _lines(
    measured: Sequence[Measured],
    values: Callable[[Measured], tuple[Sequence[int], Sequence[float | None]]],
    y: str,
    *,
    log: bool = False,
    by: str = "unit",
) -> Callable[[Figure], None]:
    """Return a function that draws a line for each network, by unit or by layer."""

    def fill(axes: Axes) -> None:
        for each in measured:
            numbers, heights = values(each)
            known = [math.nan if value is None else value for value in heights]
            axes.plot(numbers, known, label=each.title, markersize=4, linewidth=1.3, **look(each.place))
            if by == "unit" and 0 < len(each.boundaries) <= MOST_BOUNDARIES:
                for unit in each.boundaries:
                    axes.axvline(unit + 0.5, linestyle=":", linewidth=1, color=look(each.place)["color"])
        axes.set(xlabel=by, ylabel=y)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        # A single layer, too, has a place of its own.
        axes.set_xlim(0.5, max(max(values(each)[0]) for each in measured) + 0.5)
        if log:
            logarithmic(axes)
        else:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))

    return on_axes(fill, names_below=True)


def _height(measured: Sequence[Measured]) -> float:
    return 4.0 + 0.22 * math.ceil(len(measured) / 2)


def _distance_plot(measured: Sequence[Measured]) -> Plot:
    def values(each: Measured) -> tuple[Sequence[int], Sequence[float | None]]:
        assert each.distances is not None
        return each.units[: each.last + 1], each.distances[each.last, : each.last + 1].tolist()

    y = "distance to the last hidden unit"
    return Plot(
        "distance-to-last", "Distance of each unit to the last hidden one", _lines(measured, values, y),
        _height(measured), sentences.distance(measured),
    )  # fmt: skip


def _probe_plot(measured: Sequence[Measured], part: str, place: int) -> Plot:
    def values(each: Measured) -> tuple[Sequence[int], Sequence[float | None]]:
        return each.units, [errors[place] for errors in each.probes]

    return Plot(
        f"probes-{part}", f"Error of a linear classifier on each unit: {part} examples",
        _lines(measured, values, f"error on {part} examples, %"), _height(measured),
        sentences.probes(measured, place),
    )  # fmt: skip


def _norm_plot(measured: Sequence[Measured]) -> Plot:
    def values(each: Measured) -> tuple[Sequence[int], Sequence[float | None]]:
        return range(1, len(each.norms) + 1), [norm or None for norm in each.norms]

    return Plot(
        "weight-norms", "Squared norm of the weights, by unit",
        _lines(measured, values, "squared norm", log=True), _height(measured), sentences.norms(measured),
    )  # fmt: skip


def _update_plot(measured: Sequence[Measured]) -> Plot:
    def values(each: Measured) -> tuple[Sequence[int], Sequence[float | None]]:
        ratios = each.updates or []
        return range(1, len(ratios) + 1), ratios

    return Plot(
        "update-to-weight", "Change of the weights a batch, over the weights",
        _lines(measured, values, "change / weights / batches", log=True), _height(measured),
        sentences.updates(measured),
    )  # fmt: skip


def _gradient_plot(measured: Sequence[Measured], name: str, title: str) -> Plot:
    def values(each: Measured) -> tuple[Sequence[int], Sequence[float | None]]:
        return list(each.gradients), [found[name] for found in each.gradients.values()]

    y = "cosine" if name == "cosine" else "ratio of norms"
    return Plot(
        f"gradient-{name.replace('_', '-')}", title, _lines(measured, values, y, by="layer"),
        _height(measured), sentences.gradients(measured, name),
    )  # fmt: skip


def _synthesis_plot(name: str, number: int, layers: Mapping[int, Sequence[Mapping[str, float]]]) -> Plot:
    many = len(layers) > MOST_NAMED
    colours = mpl.colormaps["viridis"].resampled(max(2, len(layers)))

    def fill(figure: Figure) -> None:
        axes = figure.subplots(len(MEASURES), 1, sharex=True)
        for ax, (measure, title) in zip(axes, MEASURES.items(), strict=True):
            ax.grid(alpha=0.6, linewidth=0.6)
            for place, (k, rows) in enumerate(layers.items()):
                own = [(row["batch"], row[measure]) for row in rows if measure in row]
                style = {"color": colours(place), "marker": "."} if many else look(place)
                label = f"layer {k}" if measure == LOSS else None
                ax.plot(*zip(*own, strict=True), label=label, markersize=4, linewidth=1.2, **style)
            ax.set_title(title, fontsize=10)
            if measure == LOSS:
                logarithmic(ax)
        axes[-1].set_xlabel("batches")
        if many:
            first, *_, last = layers
            scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(first, last), colours)
            figure.colorbar(scale, ax=list(axes), location="bottom", shrink=0.6, aspect=40, label="layer")
        else:
            figure.legend(loc="outside lower center", ncols=3, fontsize=9, handlelength=3.2)

    return Plot(
        f"synthesis-{number}", f"{name}: M over time, by layer", fill, 7.2, sentences.synthesis(layers)
    )


def _surface_plot(each: Measured, number: int) -> Plot:
    def fill(figure: Figure) -> None:
        axes = figure.subplots(len(each.surfaces), 2, squeeze=False)
        for row, surface in zip(axes, each.surfaces, strict=True):
            for ax, values, what in (
                (row[0], surface.true, "true loss"), (row[1], surface.implied, "loss that M implies")
            ):  # fmt: skip
                partial(_draw_surface, surface)(figure, ax, values, f"layer {surface.layer}: {what}")

    return Plot(
        f"surface-{number}", f"{each.title}: the loss that M implies, and the true one", fill,
        0.4 + 2.9 * len(each.surfaces), sentences.surfaces(each.surfaces),
    )  # fmt: skip


def _draw_surface(surface: Surface, figure: Figure, ax: Axes, values: np.ndarray, title: str) -> None:
    image = ax.contourf(surface.first, surface.second, values, levels=16, cmap="viridis")
    ax.plot(*surface.examples.T, ".", color="white", markersize=2.5, markeredgewidth=0)
    ax.set_title(title, fontsize=10)
    ax.set(xlim=(surface.first[0], surface.first[-1]), ylim=(surface.second[0], surface.second[-1]))
    ax.tick_params(labelsize=8)
    figure.colorbar(image, ax=ax).ax.tick_params(labelsize=8)
