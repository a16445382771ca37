"""The methods' test errors: `layerwise compare` on the files of examples/, kept as results/NAME.json.

`python -m benchmarks methods --mnist FOLDER [NAME ...]`; `--table` prints docs/results.md's tables of the
results. With `--out` what an interrupted one has finished is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError, RunFailedError

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
# What of a run's summary is kept beside its error; which of them a table shows is its own question.
KEPT = ("unlock", "gradient", "input", "layers", "batches", "batch_size", "profile", "lost_batches", "delay")

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One comparison: its file in examples/, and what `compare` is asked for beside it."""

    example: str
    options: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        """As a person gives it, but for where the data are."""
        return ("compare", f"examples/{self.example}.toml", *self.options)


CASES = {
    "mnist-methods": Case("mnist-methods"),
    "mnist-conv": Case("mnist-conv"),
    "mnist-fifty": Case("mnist-fifty", ("--over", "decoupling.gradient=vfbn,cdni")),
    "mnist-cluster-driver": Case("mnist-cluster"),
    "mnist-cluster": Case(
        "mnist-cluster",
        # Crowded cores are no failure.
        ("--in", "cluster", "--over", "cluster.profile=light,basic", "--set", "cluster.misses=20"),
    ),
}


def compared(case: Case, data: Path, out: Path, jobs: int) -> dict[str, Any]:
    """Run a comparison, or what of it is not in `out` yet; its command, and a row a variant and seed.

    Raises:
        RunFailedError: it did not come to its end.
    """
    place = ["--set", f"data.path={data.resolve()}", "--out", str(out), "--jobs", str(jobs), "--json"]
    arguments = [sys.executable, "-m", "deploy.cli", *case.command, *place]
    done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RunFailedError(f"layerwise {' '.join(case.command)} ended with {done.returncode}")
    return kept(case, json.loads(done.stdout))


def kept(case: Case, result: dict[str, Any]) -> dict[str, Any]:
    """What of compare.json is kept."""
    rows = [
        {"variant": variant["name"], "seed": run["seed"]}
        | {"test_error_percent": round(run["summary"]["test_error_percent"], 3)}
        | {name: run["summary"][name] for name in KEPT}
        for variant in result["variants"]
        for run in variant["runs"]
    ]
    return {"command": f"layerwise {' '.join(case.command)} --set data.path=FOLDER", "rows": rows}


def errors(rows: Sequence[Row]) -> dict[str, list[float]]:
    """By variant, the test errors of its seeds, %."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row["test_error_percent"])
    return found


def table(rows: Sequence[Row]) -> str:
    """A line a variant: the mean, and each seed's."""
    lines = ["| method | mean test error % | by seed |", "| --- | --- | --- |"]
    for name, values in errors(rows).items():
        each = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {name} | {sum(values) / len(values):.2f} | {each} |")
    return "\n".join(lines)


def side_by_side(driver: Sequence[Row], cluster: Sequence[Row]) -> str:
    """A line a method: the driver's test error, and real processes' in each profile."""
    lines = ["| method | driver | real processes, `light` | `basic` |", "| --- | --- | --- | --- |"]
    real = errors(cluster)
    for name, (alone, *_) in errors(driver).items():
        cells = [f"{real[f'{name}, cluster.profile={profile}'][0]:.2f}" for profile in ("light", "basic")]
        lines.append(f"| {name} | {alone:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of(name: str) -> list[Row]:
    """The rows of the last results.

    Raises:
        ConfigError: there are none.
    """
    file = RESULTS / f"{name}.json"
    if not file.exists():
        raise ConfigError(f"there is no {file}; run the benchmark first")
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def last_table(name: str) -> str:
    """The table of the last results: real processes beside the driver, or a comparison alone."""
    if name == "mnist-cluster":
        return side_by_side(rows_of("mnist-cluster-driver"), rows_of(name))
    return table(rows_of(name))


def main(arguments: Sequence[str]) -> None:
    """Run what is asked for, one after the other, and keep its results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks methods", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files")
    parser.add_argument("--out", type=Path, help="where the runs are kept; default: nowhere")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side; one where they are clusters")
    parser.add_argument("--table", action="store_true", help="print the tables of the last results")
    chosen = parser.parse_args(arguments)
    names = chosen.names or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        raise ConfigError(f"{unknown[0]}: is none of {', '.join(CASES)}")
    if chosen.table:
        for name in names:
            print(f"{name}\n\n{last_table(name)}\n")
        return
    if not chosen.mnist or not chosen.mnist.is_dir():
        raise ConfigError(f"--mnist {chosen.mnist or ''}: give the folder of MNIST's files")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            result = compared(CASES[name], chosen.mnist, (chosen.out or Path(folder)) / name, chosen.jobs)
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(f"{name}\n\n{table(result['rows'])}\n", flush=True)
