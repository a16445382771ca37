"""Cost of a slow machine to the rest: a process limited to a quarter of the previous processor time.

`python -m benchmarks straggler --mnist FOLDER` writes results/straggler.json: the second of two processes of
DistributedDataParallel and of 1F1B, and layer 2 of two layers (`update`, `full`) and of three (`full`). Each
way runs unslowed first, which measures the processor time of the process, then slowed. `--table` prints the
table of docs/performance.md from the last results.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.cluster import DDP, data_and_network
from benchmarks.ways import TARGET_PERCENT, CpuLimit, Curve, Job, Layerwise, Rival, Row, Way, batches_to

RESULTS = Path(__file__).parent / "results" / "straggler.json"
SLOWED, SLOW_LAYER = 4, 2
WAYS: tuple[Way, ...] = (
    DDP,
    Rival("1f1b", microbatches=8),
    Layerwise("update", "light"),
    Layerwise("full", "light"),
    Layerwise("full", "light", layers=3),
)


def measure(way: Way, job: Job, evaluations: tuple[int, int]) -> Row:
    """Measure a way unslowed and slowed: rates and curves."""
    batches, every = evaluations
    curved = replace(job, batches=batches, every=every)
    unslowed = way.run(job, limit=CpuLimit(SLOW_LAYER))
    slow = CpuLimit(SLOW_LAYER, unslowed["share"] / SLOWED)
    unslowed["curve"] = way.run(curved)["curve"]
    slowed = way.run(job, limit=slow)
    # Processes in step have the same curve by batches at any speed.
    in_step = isinstance(way, Rival)
    slowed["curve"] = unslowed["curve"] if in_step else way.run(curved, limit=slow)["curve"]
    layers = way.processes if isinstance(way, Rival) else way.layers
    return {"way": way.name, "layers": layers, "unslowed": unslowed, "slowed": slowed}


def rate_ratios(row: Mapping[str, Any]) -> list[float | None]:
    """Return every process' slowed rate over the unslowed rate; processes in step share a rate."""
    before, after = row["unslowed"], row["slowed"]
    if "layer_rates" not in before:
        return [after["samples_per_second"] / before["samples_per_second"]] * row["layers"]
    pairs = [(before["layer_rates"][k], rate) for k, rate in sorted(after["layer_rates"].items())]
    return [now / then if now and then else None for then, now in pairs]


def seconds_to_target(run: Mapping[str, Any], batch_size: int) -> float | None:
    """Compute the seconds to the target error from a run's rate and curve; None if the curve ends above."""
    curve: Curve = run["curve"]
    batches = batches_to(curve, TARGET_PERCENT)
    return None if batches is None else batches * batch_size / float(run["samples_per_second"])


def table(result: Mapping[str, Any]) -> str:
    """Format a row for every way; the slowed process is the second."""
    heads = ["way", "processes", "samples/s, unslowed", "slowed", "each one's own rate, of that unslowed"]
    heads += ["seconds to 97 %, unslowed", "slowed"]
    lines: list[list[str]] = []
    for row in result["rows"]:
        runs = [row["unslowed"], row["slowed"]]
        rates = [f"{run['samples_per_second']:,.0f}" for run in runs]
        parts = ", ".join("-" if part is None else f"{part:.2f}" for part in rate_ratios(row))
        seconds = [seconds_to_target(run, result["batch_size"]) for run in runs]
        times = ["-" if each is None else f"{each:.1f}" for each in seconds]
        lines.append([f"`{row['way']}`", str(row["layers"]), *rates, parts, *times])
    return records.markdown(heads, lines)


def last_table() -> str:
    """Format the table of the last results.

    Raises:
        ConfigError: there are no results.
    """
    return table(records.read(RESULTS))


def main(arguments: Sequence[str]) -> None:
    """Measure every way, print a row for every way, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks straggler", description=__doc__)
    parser.add_argument(
        "--mnist", type=Path, help="folder of MNIST's files; without it, a small net on digits"
    )
    parser.add_argument("--batches", type=int, default=150, help="batches of a run that measures a rate")
    parser.add_argument("--curve", type=int, default=400, help="largest number of batches of a curve")
    parser.add_argument("--every", type=int, default=25, help="batches between two evaluations of a curve")
    parser.add_argument("--table", action="store_true", help="print the table of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_table())
        return
    settings, batch_size = data_and_network(chosen.mnist, "mlp")
    job = Job(settings, batch_size, chosen.batches)
    result: Row = {"machine": records.machine(), "settings": records.without_data_path(settings)}
    result |= {"batch_size": job.batch_size, "batches": job.batches, "rows": []}
    for way in WAYS:
        result["rows"].append(measure(way, job, (chosen.curve, chosen.every)))
        print(table(result).splitlines()[-1], flush=True)
        records.write(RESULTS, result)
