"""Compare the training speed of two checkouts, present and earlier, by turns.

`python -m benchmarks against --before FOLDER --mnist FOLDER` trains the MLP of `benchmarks cluster` with
`update` in both profiles, once in every checkout per round, and writes results/against.json: samples/s and,
from pairs within a round, the ratio of this checkout to the earlier one. The earlier checkout needs a virtual
environment of its own in `.venv`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import records
from benchmarks.by_hand import ROOT, environment
from benchmarks.cluster import MNIST, PROFILES
from benchmarks.spread import format_spread, spread
from common.errors import ConfigError, RunFailedError

RESULT = Path(__file__).parent / "results" / "against.json"
# Runs in either checkout, so it uses only names that both have.
PROGRAM = """\
import json, sys
from benchmarks.ways import Job, Layerwise
profile, batches, *settings = sys.argv[1:]
row = Layerwise("update", profile).run(Job(tuple(settings), 256, int(batches)))
print(json.dumps(row))
"""


def samples_per_second(checkout: Path, profile: str, batches: int, settings: Sequence[str]) -> float:
    """Samples/s of a run of `update` in a checkout.

    Raises:
        RunFailedError: the run failed.
    """
    python = checkout / ".venv" / "bin" / "python"
    command = [str(python), "-c", PROGRAM, profile, str(batches), *settings]
    run = subprocess.run(command, cwd=checkout, env=environment(), capture_output=True, text=True)
    if run.returncode:
        raise RunFailedError(f"{checkout}: {profile}: {(run.stderr.strip() or 'no output').splitlines()[-1]}")
    return float(json.loads(run.stdout.splitlines()[-1])["samples_per_second"])


def revision(checkout: Path) -> str:
    """Return the abbreviated commit of a checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()


@click.command()
@click.option("--before", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True,
              metavar="FOLDER", help="Earlier checkout, with its own .venv.")  # fmt: skip
@click.option("--mnist", type=click.Path(path_type=Path), required=True, metavar="FOLDER",
              help="Folder of MNIST's files.")  # fmt: skip
@click.option("--rounds", default=5, show_default=True, help="Paired rounds.")
@click.option("--batches", default=150, show_default=True, help="Batches a run.")
def command(before: Path, mnist: Path, rounds: int, batches: int) -> None:
    """Train by turns in the two checkouts, print every pair of rates, and write the ratios."""
    if not (before / ".venv" / "bin" / "python").exists():
        raise ConfigError(f"--before {before}: has no .venv; run `make setup` in it")
    settings = (*records.mnist_settings(mnist), *MNIST["mlp"])
    checkouts = {"before": before.resolve(), "now": ROOT}
    rates: dict[str, dict[str, list[float]]] = {p: {name: [] for name in checkouts} for p in PROFILES}
    for turn in range(rounds):
        for profile in PROFILES:
            # Each side goes first in every second round: a warm machine favours neither.
            order = list(checkouts)[:: 1 if turn % 2 else -1]
            for name in order:
                rates[profile][name].append(samples_per_second(checkouts[name], profile, batches, settings))
            print(turn, profile, {name: each[-1] for name, each in rates[profile].items()}, flush=True)
    result = {
        "machine": records.machine(),
        "revisions": {name: revision(path) for name, path in checkouts.items()},
        "profiles": {
            profile: {
                **each,
                "ratio": spread([b / a for a, b in zip(each["before"], each["now"], strict=True)]),
            }
            for profile, each in rates.items()
        },
    }
    records.write(RESULT, result)
    for profile, each in result["profiles"].items():
        print(f"{profile}: {format_spread(each['ratio'], '.3f')} of the earlier samples/s")


def main(arguments: Sequence[str] = ()) -> None:
    """Run the command."""
    command.main(list(arguments), standalone_mode=False)


if __name__ == "__main__":
    main(sys.argv[1:])
