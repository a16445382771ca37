"""What a person sees of a run: a live table on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

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

from common.config.sections import Config
from common.observe.percentiles import percentiles
from common.observe.problems import Problem
from common.wire.messages import Evaluation, Seat, StatusReply, Utilization

LINE_SECONDS = 5.0


# A terminal of so many columns shows all of them.
WIDE = 120


class Column(NamedTuple):
    """A column of the layers' table; those that are wide are left out where there is little room."""

    title: str
    cell: Callable[[Seat, StatusReply], str | Text]
    right: bool = True
    wide: bool = False


COLUMNS = (
    Column("layer", lambda seat, _: _place(seat), right=False),
    Column("state", lambda seat, _: _state(seat), right=False),
    Column("slave", lambda seat, _: _address(seat), right=False, wide=True),
    Column("device", lambda seat, _: seat.device or "-", right=False, wide=True),
    Column("batch", lambda seat, _: f"{seat.telemetry.next_batch:,}"),
    Column("smp/s", lambda seat, _: f"{seat.telemetry.samples_per_second:,.0f}"),
    Column("version", lambda seat, status: _versions(seat, status)),
    Column("stale", lambda seat, status: _spread_of(_staleness(seat, status))),
    Column("delay", lambda seat, _: _spread_of(seat.telemetry.delays)),
    Column("out", lambda seat, _: f"{seat.telemetry.in_flight}", wide=True),
    Column("wait", lambda seat, _: f"{100 * _waiting(seat):.0f}%"),
    Column("loss", lambda seat, _: _or_dash(seat.telemetry.loss, ".3f")),
    Column("M loss", lambda seat, _: _or_dash(seat.telemetry.gradient_loss, ".2g")),
    Column("cos", lambda seat, _: _or_dash(seat.telemetry.gradient_cosine, ".2f")),
    Column("I loss", lambda seat, _: _or_dash(seat.telemetry.input_loss, ".2g"), wide=True),
    Column("heard", lambda seat, _: f"{seat.lease_age:.1f} s" if seat.incarnation else "-", wide=True),
)


def slaves_table(status: StatusReply, width: int) -> Table:
    """A row for each layer and replica; `stale` and `delay` are p50/p99, `version` that of each shard.

    Args:
        status: of the run.
        width: of the terminal, in columns.
    """
    columns = [column for column in COLUMNS if width >= WIDE or not column.wide]
    table = _table()
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for seat in status.seats:
        table.add_row(*(column.cell(seat, status) for column in columns))
    return table


def machines_table(status: StatusReply) -> Table:
    """A row for each process: what it and its machine use."""
    table = _table()
    for title in ("", "process", "device"):
        table.add_column(title, no_wrap=True)
    for title in ("CPU", "memory", "host CPU", "host mem", "disk", "GPU", "GPU mem"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_row("master", "", "", *_used(status.utilization))
    for seat in status.seats:
        if seat.incarnation:
            used = _used(seat.telemetry.utilization)
            table.add_row(_place(seat), _address(seat), seat.device, *used)
    return table


def problems_list(wrong: Iterable[Problem]) -> Table:
    """What is wrong, and what to do about it."""
    table = Table.grid(padding=(0, 1, 0, 0))
    for problem in wrong:
        table.add_row(
            Text("!", style="bold red"), Text.assemble((problem.what, "bold"), f": {problem.advice}")
        )
    return table


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="bold", expand=False)


def _place(seat: Seat) -> str:
    return f"{seat.layer}" if seat.replica == 0 else f"{seat.layer}.{seat.replica}"


def _address(seat: Seat) -> str:
    return f"{seat.host}:{seat.pid}" if seat.pid else "-"


def _state(seat: Seat) -> Text:
    return Text(seat.state, style={"training": "green", "done": "green"}.get(seat.state, "bold red"))


def _versions(seat: Seat, status: StatusReply) -> str:
    kinds = ("weights", "gradient", "input")
    found = (status.versions.get(f"{seat.layer}/{kind}") for kind in kinds)
    return "/".join(str(version) for version in found if version is not None) or "-"


def _staleness(seat: Seat, status: StatusReply) -> Mapping[int, int]:
    return next((layer.staleness for layer in status.layers if layer.layer == seat.layer), {})


def _spread_of(counts: Mapping[int, int]) -> str:
    found = percentiles(counts)
    return f"{found['p50']}/{found['p99']}" if counts else "-"


def _waiting(seat: Seat) -> float:
    told = seat.telemetry
    return told.waiting_seconds / told.step_seconds if told.step_seconds else 0.0


def _used(machine: Utilization) -> list[str]:
    shares = (machine.host_cpu_percent, machine.memory_percent, machine.disk_percent)
    gpu = (machine.gpu_percent, machine.gpu_memory_percent)
    return [
        f"{machine.cpu_percent:.0f}%",
        f"{machine.rss_bytes / 2**20:,.0f} MiB",
        *(f"{share:.0f}%" for share in shares),
        *("-" if share is None else f"{share:.0f}%" for share in gpu),
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
            self._live.update(
                Group(self._progress, summary, Text(), slaves_table(status, self._console.width))
            )
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
    rows = [
        ("run", f"{summary['name']}: {summary['dataset']}, {summary['model']} in {summary['layers']} layers"),
        ("method", f"unlock {method}, profile {summary['profile']}"),
        ("test error", f"{summary['test_error_percent']:.2f} % (loss {summary['test_loss']:.4f})"),
        ("time", f"{summary['wall_seconds']:.1f} s in all"),
        ("throughput", f"{summary['samples_per_second']:,.0f} samples/s in training"),
    ]
    if not summary["slaves"]:
        return rows
    return [
        *rows,
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
