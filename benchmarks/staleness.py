"""Error and throughput of Downpour by staleness rule, with equal replicas and with one slowed four times.

`python -m benchmarks staleness --mnist FOLDER`: three layers of two replicas, accrued gradients and the
master's Adagrad. The slowed replica gets a quarter of its previous processor time, by signals.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.slowing import CpuLimiter, slave_of

RESULTS = Path(__file__).parent / "results" / "staleness.json"
RULES = ("any", "bound", "scale", "compensate")
SETTINGS = (
    "network.layers=3",
    "run.batch_size=256",
    "run.evaluate_every=100000",
    "downpour.replicas=2",
    "downpour.push=gradient",
)
SLOWED = 4


def measure(rule: str, allowed: float | None, batches: int, data: list[str]) -> dict[str, Any]:
    """Run once, and return the summary with the first slave's share of a core."""
    settings = [*SETTINGS, *data, f"run.batches={batches}", f"downpour.staleness={rule}"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    with tempfile.TemporaryDirectory() as folder:
        train = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "train", "--run-dir", folder, "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with CpuLimiter(slave_of(1, Path(folder) / "state"), allowed) as limiter:
            out, _ = train.communicate()
    if train.returncode:
        raise SystemExit(f"train ended with {train.returncode}")
    summary: dict[str, Any] = json.loads(out)
    return {**summary, "share": limiter.share}


def row(rule: str, slowed: bool, summary: dict[str, Any]) -> dict[str, Any]:
    """Select the values of a summary to compare."""
    names = ("test_error_percent", "samples_per_second", "staleness", "pushes", "lost_batches", "share")
    return {"rule": rule, "slowed": slowed, **{name: summary[name] for name in names}}


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows as a table."""
    lines = ["| rule | one replica slowed 4x | test error % | samples/s | staleness p50, p99, max |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for each in rows:
        staleness = ", ".join(str(each["staleness"][name]) for name in ("p50", "p99", "max"))
        lines.append(
            f"| {each['rule']} | {'yes' if each['slowed'] else 'no'} | {each['test_error_percent']:.2f} | "
            f"{each['samples_per_second']:,.0f} | {staleness} |"
        )
    return "\n".join(lines)


def last_table() -> str:
    """Format the table of the last results."""
    return table(records.read(RESULTS)["rows"])


def main(arguments: Sequence[str]) -> None:
    """Run every rule, without and with the slowed replica, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks staleness", description=__doc__)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files; without it, the digits")
    parser.add_argument("--batches", type=int, default=3000, help="batches of a run")
    chosen = parser.parse_args(arguments)
    data = ["data.dataset=mnist", f"data.path={chosen.mnist}"] if chosen.mnist else ["run.batch_size=64"]
    rows: list[dict[str, Any]] = []
    for slowed in (False, True):
        for rule in RULES:
            equal = next((each for each in rows if each["rule"] == rule), None)
            allowed = equal["share"] / SLOWED if equal else None
            rows.append(row(rule, slowed, measure(rule, allowed, chosen.batches, data)))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    dataset = "mnist" if chosen.mnist else "digits"
    result = {"dataset": dataset, "batches": chosen.batches, "settings": SETTINGS, "rows": rows}
    records.write(RESULTS, result)
    print(table(rows))
