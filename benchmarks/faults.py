"""Cost of every fault: time until detection, time until the run continues, and losses.

`python -m benchmarks faults [--only WORDS]` plays the scenarios of tests/faults, or those with WORDS in their
name, and writes results/faults.json; `--table` prints the table of docs/faults.md. The slave that takes over
is a waiting spare with torch imported; a heartbeat is a second.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks import records
from common import strict_json
from tests.faults.scenarios import SCENARIOS, Scenario, outcome
from tests.integration.processes import Cli

RESULT = Path(__file__).parent / "results" / "faults.json"
REPORTED = (
    "test_error_percent", "lost_batches", "fenced", "failures", "detection_seconds", "recovery_seconds",
)  # fmt: skip


def play(scenario: Scenario) -> dict[str, Any]:
    """Play a scenario, and return the reported values."""
    with tempfile.TemporaryDirectory() as folder:
        cli = Cli(Path(folder))
        try:
            result = outcome(scenario, cli)
        finally:
            left = cli.end()
    reported = {name: result[name] for name in REPORTED}
    return {"batches": scenario.batches, **reported, "processes_left": len(left)}


def table(outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """Format a row for every fault and unlock: two numbers are those of `light` and `basic`."""
    lines = [
        "| fault | unlock | batches | seen after, s | goes on after, s | lost batches | test error, % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    without = dict.fromkeys(replace(scenario, fault="none") for scenario in SCENARIOS)
    groups: dict[tuple[str, str], list[Scenario]] = {}
    for scenario in [*without, *SCENARIOS]:
        groups.setdefault((scenario.fault, scenario.method), []).append(scenario)
    for (fault, method), scenarios in groups.items():
        rows = [outcomes[str(scenario)] for scenario in scenarios]
        names = ("batches", "detection_seconds", "recovery_seconds", "lost_batches", "test_error_percent")
        cells = [", ".join(_cell(row[name]) for row in rows) for name in names]
        lines.append(f"| {' | '.join([fault, f'`{method}`', *cells])} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"


def last_table() -> str:
    """Format the table of the last results."""
    return table(records.read(RESULT)["scenarios"])


@click.command()
@click.option("--only", default="", metavar="WORDS", help="Play scenarios with these words in their name.")
@click.option("--table", "as_table", is_flag=True, help="Print the table of the last results.")
def command(only: str, as_table: bool) -> None:
    """Play the scenarios in turn, print and write the outcomes."""
    if as_table:
        print(last_table())
        return
    known = json.loads(RESULT.read_text(encoding="utf-8"))["scenarios"] if only and RESULT.exists() else {}
    without = dict.fromkeys(replace(scenario, fault="none") for scenario in SCENARIOS)
    for scenario in [*without, *SCENARIOS]:
        if only in str(scenario):
            known[str(scenario)] = play(scenario)
            print(scenario, strict_json.encode(known[str(scenario)]), flush=True)
            records.write(RESULT, {"machine": records.machine(), "scenarios": known})


def main(arguments: Sequence[str] = ()) -> None:
    """Run the command."""
    command.main(list(arguments), standalone_mode=False)
