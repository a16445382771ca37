"""Test errors of the methods: `layerwise compare` on the files of examples/, recorded in results/NAME.json.

`python -m benchmarks methods --mnist FOLDER [NAME ...]`; `--table` prints the tables of docs/results.md from
the results. With `--out`, finished runs of an interrupted benchmark are kept, and the same command continues.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparing import play_comparison
from common import strict_json
from common.errors import ConfigError

RESULTS = Path(__file__).parent / "results"
# Values of a run's summary that are recorded beside its error; a table shows some of them.
FIELDS = (
    "unlock",
    "gradient",
    "input",
    "layers",
    "batches",
    "batch_size",
    "profile",
    "lost_batches",
    "delay",
)

Row = dict[str, Any]


@dataclass(frozen=True)
class ExampleRun:
    """A comparison: a file in examples/, and further options of `compare`."""

    example: str
    options: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        """The command as a user types it, without the folder of the data."""
        return ("compare", f"examples/{self.example}.toml", *self.options)


CASES = {
    "mnist-methods": ExampleRun("mnist-methods"),
    "mnist-conv": ExampleRun("mnist-conv"),
    "mnist-fifty": ExampleRun("mnist-fifty", ("--over", "decoupling.gradient=vfbn,cdni")),
    "mnist-cluster-driver": ExampleRun("mnist-cluster"),
    "mnist-cluster": ExampleRun(
        "mnist-cluster",
        # Tolerate late heartbeats: on crowded cores they are not failures.
        ("--in", "cluster", "--over", "cluster.profile=light,basic", "--set", "cluster.misses=20"),
    ),
}


def run_comparison(case: ExampleRun, data: Path, out: Path, jobs: int) -> dict[str, Any]:
    """Run the unfinished runs of a comparison, and return the command, and a row for every variant and seed.

    Raises:
        RunFailedError: the comparison failed.
    """
    return select(case, play_comparison(case.command, data, out, jobs))


def select(case: ExampleRun, result: dict[str, Any]) -> dict[str, Any]:
    """Select the values of compare.json to record."""
    rows = [
        {"variant": variant["name"], "seed": run["seed"]}
        | {"test_error_percent": round(run["summary"]["test_error_percent"], 3)}
        | {name: run["summary"][name] for name in FIELDS}
        for variant in result["variants"]
        for run in variant["runs"]
    ]
    return {"command": f"layerwise {' '.join(case.command)} --set data.path=FOLDER", "rows": rows}


def errors(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Group the test errors of the seeds, in per cent, by variant."""
    by_variant: dict[str, list[float]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], []).append(row["test_error_percent"])
    return by_variant


def table(rows: Sequence[Row]) -> str:
    """Format a line for every variant: the mean, and every seed's error."""
    lines = ["| method | mean test error % | by seed |", "| --- | --- | --- |"]
    for name, values in errors(rows).items():
        each = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {name} | {sum(values) / len(values):.2f} | {each} |")
    return "\n".join(lines)


def side_by_side(driver: Sequence[Row], cluster: Sequence[Row]) -> str:
    """Format a line for every method: the driver's test error, and real processes' in every profile."""
    lines = ["| method | driver | real processes, `light` | `basic` |", "| --- | --- | --- | --- |"]
    real = errors(cluster)
    for name, (alone, *_) in errors(driver).items():
        cells = [f"{real[f'{name}, cluster.profile={profile}'][0]:.2f}" for profile in ("light", "basic")]
        lines.append(f"| {name} | {alone:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of(name: str) -> list[Row]:
    """Read the rows of the last results.

    Raises:
        ConfigError: there are no results.
    """
    file = RESULTS / f"{name}.json"
    if not file.exists():
        raise ConfigError(f"there is no {file}; run the benchmark first")
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def last_table(name: str) -> str:
    """Format the table of the last results: real processes beside the driver, or a single comparison."""
    if name == "mnist-cluster":
        return side_by_side(rows_of("mnist-cluster-driver"), rows_of(name))
    return table(rows_of(name))


def main(arguments: Sequence[str]) -> None:
    """Run the requested comparisons in turn, and record the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks methods", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files")
    parser.add_argument("--out", type=Path, help="folder for the runs; default: a temporary one")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; clusters run best one at a time")
    parser.add_argument("--table", action="store_true", help="print the tables of the last results")
    chosen = parser.parse_args(arguments)
    names = chosen.names or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        raise ConfigError(f"{unknown[0]}: is not one of {', '.join(CASES)}")
    if chosen.table:
        for name in names:
            print(f"{name}\n\n{last_table(name)}\n")
        return
    if not chosen.mnist or not chosen.mnist.is_dir():
        raise ConfigError(f"--mnist {chosen.mnist or ''}: give the folder of MNIST's files")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            result = run_comparison(
                CASES[name], chosen.mnist, (chosen.out or Path(folder)) / name, chosen.jobs
            )
            (RESULTS / f"{name}.json").write_text(
                strict_json.encode(result, indent=1) + "\n", encoding="utf-8"
            )
            print(f"{name}\n\n{table(result['rows'])}\n", flush=True)
