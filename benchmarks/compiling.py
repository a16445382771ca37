"""Gain of `torch.compile`: a layer's forward and backward, eager and compiled, and a cluster's throughput.

`python -m benchmarks compiling --mnist FOLDER` writes results/compiling.json, for the layers of
`benchmarks.cluster`'s networks and for a cluster with the convolutional one; `--table` prints the tables of
docs/performance.md. Needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks import records
from benchmarks.cluster import DIGITS, MNIST, ONE, PROFILES, TWO, data_and_network, run_way
from benchmarks.spread import format_spread, spread
from benchmarks.ways import Job, Layerwise, Way
from common.config import files
from common.data.targets import Targets
from common.lifecycle import keep_freed_memory
from common.models import network
from common.signals.forms import SignalForm

RESULTS = Path(__file__).parent / "results" / "compiling.json"
LAYERS, CLASSES = 2, 10
# The network, and its layer, that gain from compilation.
NETWORK, COMPILED = "cnn", ("cluster.compile=[true,false]",)
WAYS: list[Way] = [
    *(replace(way, compiled=compiled) for way in (ONE, TWO) for compiled in (False, True)),
    *(Layerwise("update", profile, more=more) for more in ((), COMPILED) for profile in PROFILES),
]

Row = dict[str, Any]
# Forward pass of a batch's h, then backward pass of the gradient of its output.
Pass = Callable[[Tensor, Tensor], None]


def layers(settings: Sequence[str], shape: tuple[int, ...]) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Build a network's layers, and the shape of an example of every layer's input."""
    config = files.load(None, [*settings, f"network.layers={LAYERS}"])
    blueprint = network.build(config, SignalForm.plain(shape), Targets(CLASSES))
    cuts = network.cut(config, blueprint).network.cuts
    assert cuts is not None
    inputs = [network.boundary(blueprint, cuts, k).only.shape for k in range(LAYERS)]
    return [(network.layer(blueprint, cuts, k), inputs[k - 1]) for k in range(1, LAYERS + 1)]


def training_pass(module: nn.Module) -> Pass:
    """Return a function for a forward and backward pass as a slave does."""

    def run(h: Tensor, delta: Tensor) -> None:
        for parameter in module.parameters():
            parameter.grad = None
        module(h).backward(delta)

    return run


def compare(
    module: nn.Module, shape: tuple[int, ...], first: bool, batch_size: int, rounds: int, passes: int
) -> Row:
    """Measure milliseconds of a pass with and without compilation, by turns, and the ratio within a round.

    The result includes the seconds of the first compiled pass.

    Args:
        module: a layer.
        shape: shape of one example of its input.
        first: True for the first layer, which sends no gradient down.
        batch_size: B.
        rounds: number of turns of every way.
        passes: number of passes in a turn.
    """
    h = torch.randn(batch_size, *shape, requires_grad=not first)
    with torch.no_grad():
        delta = torch.randn_like(module(h))
    ways = {
        "eager": training_pass(module),
        "compiled": training_pass(cast(nn.Module, torch.compile(module))),
    }
    began = time.perf_counter()
    ways["compiled"](h, delta)
    compiling = time.perf_counter() - began
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            way(h, delta)
            began = time.perf_counter()
            for _ in range(passes):
                way(h, delta)
            took[name].append(1e3 * (time.perf_counter() - began) / passes)
    ratios = [eager / compiled for eager, compiled in zip(took["eager"], took["compiled"], strict=True)]
    times = {f"{name}_milliseconds": spread(each, 2) for name, each in took.items()}
    return {**times, "times_faster": spread(ratios), "compiling_seconds": round(compiling, 1)}


def table(rows: Sequence[Row]) -> str:
    """Format the table of layers."""
    heads = ["layer", "ms a pass", "compiled", "times faster", "compiling, s"]
    lines = [
        [
            f"`{row['network']}`, layer {row['layer']}",
            *(f"{row[f'{way}_milliseconds']['median']:.1f}" for way in ("eager", "compiled")),
            format_spread(row["times_faster"], ".2f"),
            f"{row['compiling_seconds']:.0f}",
        ]
        for row in rows
    ]
    return records.markdown(heads, lines)


def cluster_table(rounds: Sequence[Mapping[str, Row]]) -> str:
    """Format the table of clusters and rivals; a ratio is taken within a round."""
    bases = {f"2 x `{way.name}`": way.name for way in (ONE, replace(ONE, compiled=True))}
    lines: list[list[str]] = []
    for name in rounds[0]:
        rates = [float(turn[name]["samples_per_second"]) for turn in rounds]
        lines.append([f"`{name}`", format_spread(spread(rates, 1), ",.0f")])
        for base in bases.values():
            bounds = [2 * float(turn[base]["samples_per_second"]) for turn in rounds]
            ratio = spread([rate / bound for rate, bound in zip(rates, bounds, strict=True)])
            lines[-1].append(format_spread(ratio, ".2f"))
        errors = spread([float(turn[name]["test_error_percent"]) for turn in rounds])
        lines[-1].append(f"{errors['median']:.2f}")
    return records.markdown(["way", "samples/s", *(f"of {base}" for base in bases), "test error %"], lines)


def last_tables(path: Path = RESULTS) -> str:
    """Format the tables of the last results.

    Raises:
        ConfigError: there are no results.
    """
    results = records.read(path)
    return f"{table(results['rows'])}\n\n{cluster_table(results['cluster']['rounds'])}"


def main(arguments: Sequence[str]) -> None:
    """Measure every layer and every way, write the results and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compiling", description=__doc__)
    parser.add_argument(
        "--mnist", type=Path, help="folder of MNIST's files; without it, small nets on digits"
    )
    parser.add_argument("--turns", type=int, default=5, help="turns of a layer with and without compilation")
    parser.add_argument("--passes", type=int, default=20, help="passes of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the cluster and its rivals")
    parser.add_argument("--batches", type=int, default=100, help="batches of each run of a round")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file for the results")
    parser.add_argument("--table", action="store_true", help="print the tables of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_tables(chosen.out))
        return
    # As in a slave: otherwise the kernel clears megabytes of fresh memory for h in every pass.
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as cache:
        # An empty cache, so that every compilation is measured.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        results = _measure(chosen)
    records.write(chosen.out, results)
    print(last_tables(chosen.out))


def _measure(chosen: argparse.Namespace) -> Row:
    networks, shape = (MNIST, (1, 28, 28)) if chosen.mnist else (DIGITS, (1, 8, 8))
    settings, batch_size = data_and_network(chosen.mnist, NETWORK)
    rows: list[Row] = []
    for name, network_settings in networks.items():
        for k, (module, inputs) in enumerate(layers(network_settings, shape), 1):
            row = compare(module, inputs, k == 1, batch_size, chosen.turns, chosen.passes)
            rows.append({"network": name, "layer": k, **row})
    job = Job(settings, batch_size, chosen.batches)
    rounds = [{way.name: run_way(way, job) for way in WAYS} for _ in range(chosen.rounds)]
    cluster = {"settings": records.without_data_path(settings), "batch_size": batch_size}
    cluster |= {"batches": chosen.batches, "rounds": rounds}
    return {"machine": records.machine(), "torch": torch.__version__, "rows": rows, "cluster": cluster}
