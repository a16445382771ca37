"""What a person sees of a run: a live table on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from common.config import Config
from common.messages import Evaluation, Seat, StatusReply
from common.percentiles import percentiles

LINE_SECONDS = 5.0


def slaves_table(status: StatusReply) -> Table:
    """A row for each layer and replica; what is wrong is marked."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for title in ("layer", "slave", "device", "state"):
        table.add_column(title)
    for title in ("batches", "samples/s", "version", "out", "delay", "waiting", "loss", "M loss", "cosine"):
        table.add_column(title, justify="right")
    for seat in status.seats:
        table.add_row(*_row(seat, status))
    return table


def _row(seat: Seat, status: StatusReply) -> list[str | Text]:
    told = seat.telemetry
    state = Text(seat.state, style={"training": "green", "done": "green"}.get(seat.state, "bold red"))
    if seat.state in ("late", "vacant") and seat.incarnation:
        state.append(f" {seat.lease_age:.1f} s")
    waiting = told.waiting_seconds / told.step_seconds if told.step_seconds else 0.0
    return [
        f"{seat.layer}" if seat.replica == 0 else f"{seat.layer}.{seat.replica}",
        f"{seat.host}:{seat.pid}" if seat.pid else "-",
        seat.device or "-",
        state,
        f"{told.next_batch:,}",
        f"{told.samples_per_second:,.0f}",
        f"{status.versions.get(f'{seat.layer}/weights', 0):,}",
        f"{told.in_flight}",
        f"{percentiles(told.delays)['p50']}",
        f"{100 * waiting:.1f} %",
        _or_dash(told.loss, ".4f"),
        _or_dash(told.gradient_loss, ".3g"),
        _or_dash(told.gradient_cosine, ".2f"),
    ]


def _or_dash(value: float, form: str) -> str:
    return format(value, form) if value else "-"


def line(status: StatusReply, rate: float) -> str:
    """The run in one line."""
    staleness, delay = percentiles(status.counters.staleness), percentiles(status.delays)
    parts = [
        f"batch {status.batches}/{status.of_batches}",
        f"{rate:,.0f} samples/s",
        f"staleness {staleness['p50']} (max {staleness['max']})",
        f"delay {delay['p50']} (max {delay['max']})",
    ]
    if status.evaluation.versions:
        parts.insert(2, f"error {status.evaluation.test_error_percent:.2f} %")
    wrong = [f"layer {seat.layer} {seat.state}" for seat in status.seats if seat.state in ("late", "vacant")]
    return "  ".join([*wrong, *parts])


class Screen:
    """Progress of one run, on standard error; standard output is for results."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._told = 0.0
        self._rates: list[tuple[float, int]] = []
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task(config.run.name, total=config.run.batches)
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, soft_wrap=True, markup=False)

    def show(self, status: StatusReply) -> None:
        """How the run goes now."""
        rate = self._rate(status.batches)
        if self._live:
            self._progress.update(self._task, completed=status.batches)
            summary = Text(line(status, rate))
            self._live.update(Group(self._progress, summary, Text(), slaves_table(status)))
        elif time.monotonic() - self._told >= LINE_SECONDS and status.state == "training":
            self._told = time.monotonic()
            self.say(line(status, rate))

    def evaluated(self, evaluation: Evaluation) -> None:
        """A test error was measured."""
        self.say(
            f"batch {evaluation.batches:>6}  test error {evaluation.test_error_percent:6.2f} %  "
            f"test loss {evaluation.test_loss:.4f}"
        )

    def close(self) -> None:
        """Leave the terminal as it was; more than once does no harm."""
        if self._live:
            self._live.stop()
            self._live = None

    def _rate(self, batches: int) -> float:
        """Samples a second over the last few seconds."""
        now = time.monotonic()
        self._rates = [(then, b) for then, b in self._rates if now - then < 3.0] + [(now, batches)]
        then, before = self._rates[0]
        return (batches - before) * self._config.run.batch_size / (now - then) if now > then else 0.0


def print_summary(summary: Mapping[str, Any], path: str) -> None:
    """The end of a run, as a table on standard output."""
    console = Console(file=sys.stdout, highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in summary_rows(summary):
        table.add_row(name, value)
    console.print(table)
    console.print(f"results in {path}", soft_wrap=True)


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A summary as a person reads it."""
    method = summary["unlock"] + (f" ({summary['gradient']})" if summary["gradient"] else "")
    waiting = ", ".join(f"{k}: {100 * part:.1f} %" for k, part in summary["waiting_fraction"].items())
    cpu, rss = summary["cpu_seconds"], summary["peak_rss_bytes"]
    return [
        ("run", f"{summary['name']}: {summary['dataset']}, {summary['model']} in {summary['layers']} layers"),
        ("method", f"unlock {method}, profile {summary['profile']}"),
        ("test error", f"{summary['test_error_percent']:.2f} % (loss {summary['test_loss']:.4f})"),
        ("time", f"{summary['wall_seconds']:.1f} s in all"),
        ("throughput", f"{summary['samples_per_second']:,.0f} samples/s in training"),
        ("staleness", _spread(summary["staleness"]) + " pushes"),
        ("delay", _spread(summary["delay"]) + " batches"),
        ("waiting", f"{waiting} of a step, by layer"),
        ("pushes, pulls", f"{summary['pushes']:,}, {summary['pulls']:,}"),
        ("restarts, lost", f"{summary['restarts']} processes, {summary['lost_batches']} batches"),
        ("CPU", f"master {cpu['master']:.1f} s, slaves {', '.join(f'{s:.1f}' for s in cpu['slaves'])} s"),
        ("memory", f"master {_mib(rss['master'])}, slaves {', '.join(map(_mib, rss['slaves']))}"),
    ]


def _spread(values: Mapping[str, int]) -> str:
    return f"p50 {values['p50']}, p99 {values['p99']}, max {values['max']}"


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
