"""Steps to the same loss against the number of layers: what late gradients cost in depth.

`python -m benchmarks depth --text FILE --out DIR` plays `layerwise compare` on the file `EXAMPLE` and records
the curves in results/depth.json; the same command goes on where an interrupted one stopped. `--table` prints
the table of docs/results.md from the results.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparing import play_comparison
from benchmarks.spread import format_spread, spread
from benchmarks.ways import batches_to
from common import strict_json
from common.errors import ConfigError

RESULTS = Path(__file__).parent / "results" / "depth.json"
EXAMPLE = "examples/shakespeare-depth.toml"
BASE = "back-propagation"
# Back-propagation's loss after so many steps is the loss to reach. Its runs go on a little longer.
STEPS = 300

Row = dict[str, Any]


def read_row(variant: str, seed: int, folder: Path, layers: int) -> Row:
    """Read a run's curve of the test loss by steps of the optimizer.

    Args:
        variant: name in the comparison.
        seed: of the run.
        folder: of the run.
        layers: K.
    """
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    curve = [[line["batches"], round(line["test_loss"], 4)] for line in lines if line["kind"] == "evaluation"]
    return {"variant": variant, "seed": seed, "layers": layers, "curve": curve}


def compare_steps(rows: Sequence[Row], micro_batches: Mapping[str, int]) -> dict[str, list[float | None]]:
    """Return each variant's steps to back-propagation's loss of the same seed, as a multiple of its steps.

    Args:
        rows: of `read_row`.
        micro_batches: batches of a step, by variant.

    Returns:
        By variant a ratio for every seed; None: the loss was never reached.
    """
    targets = {row["seed"]: _loss_after(row["curve"], STEPS) for row in rows if row["variant"] == BASE}
    found: dict[str, list[float | None]] = {}
    for row in rows:
        if row["variant"] != BASE:
            batches = batches_to(row["curve"], targets[row["seed"]])
            ratio = None if batches is None else batches / micro_batches[row["variant"]] / STEPS
            found.setdefault(row["variant"], []).append(ratio)
    return found


def table(result: Mapping[str, Any]) -> str:
    """Format a line for every variant: the median ratio, and the ratios of every seed."""
    lines = ["| variant | steps to the loss, of back-propagation's | by seed |", "| --- | --- | --- |"]
    for name, ratios in compare_steps(result["rows"], result["micro_batches"]).items():
        reached = [ratio for ratio in ratios if ratio is not None]
        median = format_spread(spread(reached), ".2f") if len(reached) == len(ratios) else "not reached"
        each = ", ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {name} | {median} | {each} |")
    return "\n".join(lines)


def run(text: Path, out: Path, seeds: int, jobs: int) -> dict[str, Any]:
    """Run the unfinished runs of the comparison, and return the command, and a curve for every run.

    Raises:
        RunFailedError: the comparison failed.
    """
    command = ["compare", EXAMPLE, "--seeds", str(seeds)]
    variants = play_comparison(command, text, out, jobs)["variants"]
    rows, micro_batches = [], {}
    for variant in variants:
        for each in variant["runs"]:
            folder = out / variant["folder"] / f"seed-{each['seed']}"
            rows.append(read_row(variant["name"], each["seed"], folder, each["summary"]["layers"]))
            # A step of every variant has as many examples as a batch of back-propagation.
            micro_batches[variant["name"]] = each["summary"]["batch_size"]
    examples = micro_batches[BASE]
    return {
        "command": f"layerwise {' '.join(command)} --set data.path=FILE",
        "micro_batches": {name: examples // size for name, size in micro_batches.items()},
        "rows": rows,
    }


def main(arguments: Sequence[str]) -> None:
    """Play the comparison, record its curves and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks depth", description=__doc__)
    parser.add_argument("--text", type=Path, help="file of a text, such as Tiny Shakespeare")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--table", action="store_true", help="print the table of the last results")
    chosen = parser.parse_args(arguments)
    if not chosen.table:
        if not chosen.text or not chosen.text.is_file():
            raise ConfigError(f"--text {chosen.text or ''}: give the file of a text")
        if not chosen.out:
            raise ConfigError("--out: give a folder for the runs")
        result = run(chosen.text, chosen.out, chosen.seeds, chosen.jobs)
        RESULTS.write_text(strict_json.encode(result, indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(RESULTS.read_text(encoding="utf-8"))))


def _loss_after(curve: Sequence[Sequence[float]], steps: int) -> float:
    """Interpolate the loss after so many steps, linearly between evaluations."""
    for before, after in itertools.pairwise(curve):
        if before[0] <= steps <= after[0]:
            part = (steps - before[0]) / (after[0] - before[0])
            return before[1] + part * (after[1] - before[1])
    raise ConfigError(f"{EXAMPLE}: back-propagation has no evaluations around step {steps}")
