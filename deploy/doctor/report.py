"""Report of findings: a table for people, JSON for programs, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from common import strict_json
from common.errors import ConfigError, RefusedError, UnreachableError
from common.text import answer, printable
from deploy.console import PlainConsole
from deploy.doctor.findings import Finding, State
from deploy.doctor.setup import Setup

_STYLES = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red"}


def print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """Print findings on standard output."""
    if as_json:
        keys = ("name", "state", "found", "fix")
        answer(strict_json.encode([{key: getattr(finding, key) for key in keys} for finding in findings]))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        lines = [Text(printable(finding.found))]
        if finding.fix:
            lines.append(Text(f"-> {printable(finding.fix)}", style="italic"))
        table.add_row(finding.name, Text(finding.state, style=_STYLES[finding.state]), Text("\n").join(lines))
    PlainConsole().print(table)


def exit_code(setup: Setup, findings: Sequence[Finding]) -> int:
    """Return the exit code: 3 for an absent or refusing master, else 2 for any failure, else 0."""
    if setup.master and isinstance(setup.trouble, UnreachableError | RefusedError):
        return setup.trouble.exit_code
    return ConfigError.exit_code if any(each.state == State.FAILED for each in findings) else 0
