"""Picture of a race: loss over seconds, ours and rivals, on a slow link, with a straggler and with a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib import ticker

from benchmarks.racing import standings
from benchmarks.racing.rows import target_of
from benchmarks.racing.ways import SELECTED, WAYS
from common.errors import ConfigError

Row = Mapping[str, Any]
# Titles by place; a place without rows is left out.
PLACES = {
    "100mbit": "100 Mbit/s",
    "loopback+straggler": "one process at a quarter of its speed",
    "loopback+kill": "one process killed half-way",
}
GREYS, COLOURS = ("#a3a9b5", "#7f8796", "#4d5566", "#20242c"), ("#e4572e", "#f2a541", "#2e86ab", "#6a994e")
DASHES = (":", "--", "-.", (0, (1, 1)))
# Right end of a panel, in seconds of the slowest way of ours.
WIDER = 1.3
# Share of the first loss at which a panel begins: every way is above it for seconds alone.
HIGHEST_SHARE = 0.5


def middle(rounds: Sequence[Mapping[str, Row]], way: str, target: float) -> Row | None:
    """Return the way's row of median seconds to the target; None without a row that fits."""
    rows = [turn[way] for turn in rounds if way in turn and turn[way]["fits"]]
    never = float("inf")
    seconds = [standings.seconds_to(row, target) for row in rows]
    order = sorted(zip([never if each is None else each for each in seconds], range(len(rows)), strict=True))
    return rows[order[(len(order) - 1) // 2][1]] if order else None


def draw(path: Path, places: Mapping[str, Sequence[Mapping[str, Row]]]) -> None:
    """Write the picture of a network's rows as PNG.

    Raises:
        ConfigError: there is no row of a place in the picture, or none that sets the target.
    """
    shown = [place for place in PLACES if place in places]
    if not shown:
        raise ConfigError(f"--figure: there are no rows of {', '.join(PLACES)}; play these first")
    target = target_of(places)
    figure, axes = plt.subplots(
        1, len(shown), figsize=(4.4 * len(shown), 3.8), dpi=130, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for place, each in zip(shown, axes[0], strict=True):
        _draw_place(each, places[place], target)
        each.set_title(PLACES[place], fontsize=10)
        each.set_xlabel("seconds")
    axes[0][0].set_ylabel("test loss")
    axes[0][0].set_ylim(top=HIGHEST_SHARE * _first_loss(places))
    lines = axes[0][0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=len(SELECTED), frameon=False, fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def _first_loss(places: Mapping[str, Sequence[Mapping[str, Row]]]) -> float:
    """Return the loss of the initial weights, the same in every row."""
    curves = (
        row["curve"] for rounds in places.values() for turn in rounds for row in turn.values() if row["fits"]
    )
    return float(next(curve[0][2] for curve in curves if curve))


def _draw_place(axes: Any, rounds: Sequence[Mapping[str, Row]], target: float) -> None:
    greys, colours, dashes = iter(GREYS), iter(COLOURS), iter(DASHES)
    latest = 0.0
    for way in SELECTED:
        ours = WAYS[way].ours
        colour, style = next(colours if ours else greys), "-" if ours else next(dashes)
        row = middle(rounds, way, target)
        if row and row["curve"]:
            _, seconds, losses = zip(*standings.smooth(row["curve"]), strict=True)
            label = f"layerwise, {way}" if ours else way
            axes.plot(seconds, losses, linestyle=style, color=colour, label=label, linewidth=1.6)
            latest = max(latest, seconds[-1]) if ours else latest
    axes.axhline(target, color="#20242c", linewidth=0.8)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    # A rival may take ten times as long; its curve then leaves the picture.
    axes.set_xlim(0, WIDER * latest or None)
    axes.spines[["top", "right"]].set_visible(False)
