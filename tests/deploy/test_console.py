"""One console: outside text is shown as it is, and no other module prints."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from common.config.sections import Config
from common.wire.messages import Seat, StatusReply
from deploy.console import PlainConsole
from deploy.screen import print_result, summary_rows
from deploy.status import _StatusView
from master.web.pages import SCRIPTS
from tests.integration.processes import ROOT

HOSTILE = "[red]a[/x] :smile: \x1b[31m\u202e"
SHOWN = "[red]a[/x] :smile: \\x1b[31m\\u202e"


def lines_of(*renderables: object) -> list[str]:
    """What the console prints, wide enough for a line each."""
    console = PlainConsole()
    console.width = 200
    with console.capture() as captured:
        for each in renderables:
            console.print(each)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_neither_lines_nor_cells_nor_styled_text_are_markup() -> None:
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_row(HOSTILE)
    shown = lines_of(HOSTILE, table, Text(HOSTILE), Group(HOSTILE, Text(HOSTILE)))
    assert [line.strip() for line in shown] == [SHOWN] * 5


def test_status_shows_hostile_hosts_devices_and_names_escaped() -> None:
    seat = Seat(1, 0, "late", host=HOSTILE, pid=7, device=HOSTILE, incarnation=1)
    status = StatusReply(name=HOSTILE, seats=[seat], state="training", snapshot_trouble=HOSTILE)
    text = "\n".join(lines_of(_StatusView(Config(), "127.0.0.1:1").render(status, 200)))
    assert text.count(f"{SHOWN}:7") == 3  # the problem, the layer, the machine
    assert text.count(SHOWN) >= 6
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_summary_shows_hostile_names_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {
        "name": HOSTILE, "dataset": "d", "model": "m", "layers": 1, "unlock": "none", "gradient": None,
        "profile": "light", "waiting_fraction": {}, "cpu_seconds": {}, "peak_rss_bytes": {}, "slaves": 0,
        "metrics": {"error_percent": 1.0}, "test_loss": 1.0, "wall_seconds": 1.0, "samples_per_second": 1.0,
    }  # fmt: skip
    print_result(summary, Path("exp[lr=0.1]/[/x]"), as_json=False)
    shown = capsys.readouterr().out
    assert f"{SHOWN}: d" in " ".join(shown.split())
    assert "results in exp[lr=0.1]/[/x]\n" in shown


def test_a_summary_lists_the_values_of_few_layers_and_the_range_of_many() -> None:
    for layers, waiting in ((2, "1: 1.0 %, 2: 2.0 % of a step"), (64, "1: 1.0 % to 64: 64.0 % of a step")):
        summary = {
            "name": "n", "dataset": "d", "model": "m", "layers": layers, "unlock": "none", "gradient": None,
            "profile": "light", "metrics": {"error_percent": 1.0}, "test_loss": 1.0, "wall_seconds": 1.0,
            "samples_per_second": 1.0, "slaves": layers, "lost_states": 0, "restarts": 0, "lost_batches": 0,
            "staleness": {"p50": 0, "p99": 1, "max": 2}, "delay": {"p50": 0, "p99": 1, "max": 2},
            "pushes": 1, "pulls": 1, "waiting_fraction": {f"{k}": k / 100 for k in range(1, layers + 1)},
            "cpu_seconds": {"master": 1.0, "slaves": [2.0] * layers},
            "peak_rss_bytes": {"master": 1 << 20, "slaves": [2 << 20] * layers},
        }  # fmt: skip
        rows = dict(summary_rows(summary))
        assert rows["waiting"] == f"{waiting}, by layer"
        assert len(rows["CPU"]) < 60


def test_no_module_prints_past_the_console() -> None:
    """Lines go through `common.text`, tables through `deploy.console`."""
    allowed = {"common/text.py", "deploy/console.py"}
    found = []
    for package in ("common", "master", "slave", "deploy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            names = {ast.unparse(call.func) for call in calls}
            if names & {
                "print",
                "click.echo",
                "click.secho",
                "Console",
                "sys.stdout.write",
                "sys.stderr.write",
            }:
                found.append(str(path.relative_to(ROOT)))
    assert set(found) <= allowed


def test_the_live_page_builds_elements_and_never_markup() -> None:
    for name in SCRIPTS:
        script = (ROOT / "master" / "web" / "static" / f"{name}.js").read_text(encoding="utf-8")
        for call in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert call not in script, name
