"""Whether `torch.compile` would pay: forward and backward of a layer, with and without it.

`python -m benchmarks compiling` writes results/compiling.json, of the layers of `benchmarks.cluster`'s
networks; `--table` prints docs/performance.md's table of it. Needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks import kept
from benchmarks.cluster import DIGITS, MNIST
from benchmarks.spread import spread
from common import config as configuration
from common import network

RESULTS = Path(__file__).parent / "results" / "compiling.json"
LAYERS, CLASSES = 2, 10

Row = dict[str, Any]
# Forward and backward of a batch's h and the gradient of what comes out.
Pass = Callable[[Tensor, Tensor], None]


def layers(settings: Sequence[str], shape: tuple[int, ...]) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """A network's layers, each with the shape of one example of its input."""
    config = configuration.load(None, [*settings, f"network.layers={LAYERS}"])
    blueprint = network.build(config, shape, CLASSES)
    cuts = network.resolve(config, blueprint, shape, CLASSES).network.cuts
    assert cuts is not None
    inputs = [shape, *(network.boundary(blueprint, cuts, k) for k in range(1, LAYERS))]
    return [(network.layer(blueprint, cuts, k), inputs[k - 1]) for k in range(1, LAYERS + 1)]


def passing(module: nn.Module) -> Pass:
    """As a slave goes through its layer."""

    def run(h: Tensor, delta: Tensor) -> None:
        for parameter in module.parameters():
            parameter.grad = None
        module(h).backward(delta)

    return run


def compared(
    module: nn.Module, shape: tuple[int, ...], first: bool, batch_size: int, rounds: int, passes: int
) -> Row:
    """Milliseconds a pass of each, by turns; the ratio within a round; seconds until the first compiled one.

    Args:
        module: a layer.
        shape: of one example of its input.
        first: it owes nobody the gradient of its input.
        batch_size: B.
        rounds: how many turns.
        passes: of each turn.
    """
    h = torch.randn(batch_size, *shape, requires_grad=not first)
    with torch.no_grad():
        delta = torch.randn_like(module(h))
    ways = {"eager": passing(module), "compiled": passing(cast(nn.Module, torch.compile(module)))}
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
    found = {f"{name}_milliseconds": spread(each, 2) for name, each in took.items()}
    return {**found, "times_faster": spread(ratios), "compiling_seconds": round(compiling, 1)}


def table(rows: Sequence[Row]) -> str:
    """A row a layer."""
    heads = ["layer", "ms a pass", "compiled", "times faster", "compiling, s"]
    lines = [
        [
            f"`{row['network']}`, layer {row['layer']}",
            *(f"{row[f'{way}_milliseconds']['median']:.1f}" for way in ("eager", "compiled")),
            "{median:.2f} ({p25:.2f} to {p75:.2f})".format(**row["times_faster"]),
            f"{row['compiling_seconds']:.0f}",
        ]
        for row in rows
    ]
    return kept.markdown(heads, lines)


def last_table() -> str:
    """The table of the last results.

    Raises:
        ConfigError: there are none.
    """
    return table(kept.read(RESULTS)["rows"])


def main(arguments: Sequence[str]) -> None:
    """Measure every layer, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compiling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--passes", type=int, default=20, help="of a turn")
    parser.add_argument("--small", action="store_true", help="small networks on the digits, to try it")
    parser.add_argument("--table", action="store_true", help="print the table of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_table())
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks, shape, batch_size = (DIGITS, (1, 8, 8), 64) if chosen.small else (MNIST, (1, 28, 28), 256)
    rows: list[Row] = []
    for name, settings in networks.items():
        for k, (module, inputs) in enumerate(layers(settings, shape), 1):
            row = compared(module, inputs, k == 1, batch_size, chosen.rounds, chosen.passes)
            rows.append({"network": name, "layer": k, **row})
    kept.write(RESULTS, {"machine": kept.machine(), "torch": torch.__version__, "rows": rows})
    print(table(rows))
