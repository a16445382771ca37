"""Plots of a run: the task's first metric over batches, throughput, and delays of gradients."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.observe import measures
from common.text import printable
from deploy.runs.files import write_file
from deploy.runs.metrics import EVALUATION, HEARTBEAT

mpl.use("Agg")
# Names come from outside: a dollar sign in them begins no formula.
mpl.rcParams["text.parse_math"] = False
# Lines or bars that a legend names; of more, colours tell the layer. Rows of a picture that have a number.
MOST_NAMED, MOST_MARKED = 6, 16


def draw(folder: Path, metrics: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Draw error.png (or the plot of the task's first metric), throughput.png and delay.png.

    Args:
        folder: destination, created if missing.
        metrics: lines of metrics.jsonl.
        summary: summary of the run.
    """
    folder.mkdir(exist_ok=True)
    evaluations = [line for line in metrics if line["kind"] == EVALUATION]
    beats = [line for line in metrics if line["kind"] == HEARTBEAT]
    title = printable(f"{summary['name']}: {summary['dataset']}, unlock {summary['unlock']}")
    name = next(iter(measures.of(summary)))
    axes = _axes(f"{title}: {measures.title(name)}", "batches", measures.axis(name))
    values = [_or_nan(measures.of(each).get(name)) for each in evaluations]
    axes.plot([each["batches"] for each in evaluations], values, marker="o")
    axes.set_ylim(bottom=0)
    _save(axes, folder / f"{name.removesuffix('_percent')}.png")
    _save(_throughput(beats, title), folder / "throughput.png")
    _save(_delays(beats, title), folder / "delay.png")


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _axes(title: str, x: str, y: str) -> Axes:
    axes = Figure(figsize=(7, 4), layout="constrained").subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return axes


def _save(axes: Axes, path: Path) -> None:
    image = io.BytesIO()
    _figure(axes).savefig(image, dpi=120)
    write_file(path, image.getvalue())


def _throughput(beats: Sequence[Mapping[str, Any]], title: str) -> Axes:
    axes = _axes(f"{title}: throughput", "seconds", "samples/s")
    seats = sorted({(beat["layer"], beat["replica"]) for beat in beats})
    scale = _scale([layer for layer, _ in seats]) if len(seats) > MOST_NAMED else None
    for layer, replica in seats:
        own = [beat for beat in beats if (beat["layer"], beat["replica"]) == (layer, replica)]
        axes.plot(
            [b["seconds"] for b in own],
            [b["samples_per_second"] for b in own],
            marker=".",
            color=scale.to_rgba(layer) if scale else None,
            label=f"layer {layer}" + (f", replica {replica}" if replica else ""),
        )
    axes.set_ylim(bottom=0)
    _name_layers(axes, scale, named=bool(beats))
    return axes


def _delays(beats: Sequence[Mapping[str, Any]], title: str) -> Axes:
    """Plot a histogram of the gradients' delays, for every layer with late gradients."""
    last = {(beat["layer"], beat["replica"]): beat["delays"] for beat in beats}
    late: dict[int, Counter[int]] = {}
    for (layer, _), delays in sorted(last.items()):
        if delays:
            late.setdefault(layer, Counter()).update({int(delay): count for delay, count in delays.items()})
    if len(late) > MOST_NAMED:
        return _many_delays(late, title)
    axes = _axes(f"{title}: delay of gradients", "batches", "gradients")
    for place, (layer, counts) in enumerate(late.items()):
        width = 0.8 / len(late)
        axes.bar(
            [delay + (place + 0.5) * width - 0.4 for delay in counts],
            list(counts.values()),
            width,
            label=f"layer {layer}",
        )
    _name_layers(axes, None, named=bool(late))
    return axes


def _many_delays(late: Mapping[int, Counter[int]], title: str) -> Axes:
    """Plot a row for each layer: the share of its gradients that came so late, by colour."""
    axes = _axes(f"{title}: delay of gradients", "batches", "layer")
    axes.grid(visible=False)
    longest = max(max(counts) for counts in late.values())
    shares = [[counts[delay] / counts.total() for delay in range(longest + 1)] for counts in late.values()]
    rows = range(len(late))
    mesh = axes.pcolormesh(range(longest + 1), rows, shares, cmap="Blues", vmin=0, shading="nearest")
    marked = rows[:: -(-len(late) // MOST_MARKED)]
    axes.set_yticks(marked, [str(list(late)[row]) for row in marked])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _figure(axes).colorbar(mesh, ax=axes, label="share of a layer's gradients")
    return axes


def _scale(layers: Sequence[int]) -> ScalarMappable:
    """Return a scale of colours from the first to the last layer; yellow is too pale on white."""
    colours = ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.9, 256)))
    return ScalarMappable(Normalize(layers[0], layers[-1]), colours)


def _name_layers(axes: Axes, scale: ScalarMappable | None, *, named: bool) -> None:
    """Name the layers by a scale of colours, or in a legend; without any there is nothing to name."""
    if scale:
        _figure(axes).colorbar(scale, ax=axes, label="layer")
    elif named:
        axes.legend()


def _figure(axes: Axes) -> Figure:
    assert isinstance(axes.figure, Figure)
    return axes.figure
