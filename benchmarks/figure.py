"""README's figure, drawn from results/cluster.json: seconds to 97 % for layerwise and its rivals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks import records
from benchmarks.cluster import RESULTS
from benchmarks.ways import TARGET_PERCENT, batches_to

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "seconds-to-97.png"
# Titles of the groups, by the network's key in the results.
NETWORKS = {
    "loopback": "one machine",
    "1000 Mbit/s": "1 Gbit/s",
    "10 ms apart": "10 ms apart",
    "100 Mbit/s": "100 Mbit/s",
}
# Labels and colours of the bars, by the way's key in the results.
WAYS = {
    "bp-1": ("back-propagation, one process", "#b8bcc4"),
    "ddp": ("DistributedDataParallel, two processes", "#7f8796"),
    "1f1b": ("pipeline (1F1B), two processes", "#4d5566"),
    "update basic": ("layerwise (update, basic), two slaves", "#e4572e"),
}


def compute_seconds(result: Mapping[str, Any], network: str, way: str) -> float:
    """Return the seconds in which a way reaches 97 %: batches to 97 % on loopback over the median rate.

    Args:
        result: contents of results/cluster.json.
        network: key of `NETWORKS`.
        way: key of `WAYS`.
    """
    loopback = result["loopback"]["mlp"]
    job = loopback if network == "loopback" else result["links"][network]["mlp"]
    # `basic` learns the same as `light`, so the benchmark measures the curve of `light` alone.
    batches: float | None = batches_to(loopback["curves"][way.replace("basic", "light")], TARGET_PERCENT)
    assert batches is not None
    rate: float = statistics.median(turn[way]["samples_per_second"] for turn in job["rounds"])
    return batches * float(job["batch_size"]) / rate


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """Write the figure as PNG."""
    figure, axes = plt.subplots(figsize=(8.6, 3.6), dpi=130, layout="constrained")
    width = 0.8 / len(WAYS)
    for number, (way, (label, colour)) in enumerate(WAYS.items()):
        heights = [compute_seconds(result, network, way) for network in NETWORKS]
        places = [group + (number - (len(WAYS) - 1) / 2) * width for group in range(len(NETWORKS))]
        bars = axes.bar(places, heights, width * 0.92, label=label, color=colour)
        axes.bar_label(bars, fmt="{:.0f}", fontsize=8, padding=1)
    axes.set_yscale("log")
    axes.set_ylim(10, 2000)
    axes.set_yticks([10, 100, 1000], ["10", "100", "1000"])
    axes.set_xticks(range(len(NETWORKS)), list(NETWORKS.values()))
    axes.set_ylabel("seconds to 97 % on MNIST")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    draw(FIGURE, records.read(RESULTS))
