"""Terminal output of a run: a live table on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from common import strict_json
from common.config.sections import Config
from common.observe import measures
from common.observe.percentiles import percentiles
from common.observe.problems import Problem
from common.text import answer
from common.wire.messages import Evaluation, Seat, StatusReply
from common.wire.use import Utilization
from deploy.console import PlainConsole

LINE_SECONDS = 5.0
# Slaves or layers whose values a result lists; of more the least and the greatest.
MOST_LISTED = 8


# Terminals of at least this many columns show the wide columns of the layers' table.
WIDE = 120


class Column(NamedTuple):
    """A column of the layers' table; wide columns are omitted on narrow terminals."""

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
    Column("n_push", lambda seat, _: f"{seat.telemetry.push_steps or '-'}", wide=True),
    Column("wait", lambda seat, _: f"{100 * _waiting(seat):.0f}%"),
    Column("loss", lambda seat, _: _or_dash(seat.telemetry.loss, ".3f")),
    Column("own loss", lambda seat, _: _or_dash(seat.telemetry.own_loss, ".3f"), wide=True),
    Column("M loss", lambda seat, _: _or_dash(seat.telemetry.gradient_loss, ".2g")),
    Column("cos", lambda seat, _: _or_dash(seat.telemetry.gradient_cosine, ".2f")),
    Column("I loss", lambda seat, _: _or_dash(seat.telemetry.input_loss, ".2g"), wide=True),
    Column("time cos", lambda seat, _: _or_dash(seat.telemetry.time_cosine, ".2f"), wide=True),
    Column("heard", lambda seat, _: f"{seat.lease_age:.1f} s" if seat.incarnation else "-", wide=True),
)

# Of a run whose examples become harder.
LEVEL = Column("level", lambda seat, status: _level(seat, status))


def slaves_table(status: StatusReply, width: int) -> Table:
    """Build a table with a row for every layer and replica.

    `stale` and `delay` show p50/p99, `version` the versions of weights/M/I/M in time.

    Args:
        status: status of the run.
        width: width of the terminal, in columns.
    """
    columns = [column for column in COLUMNS if width >= WIDE or not column.wide]
    if status.curriculum.starts:
        columns.append(LEVEL)
    table = _table()
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for seat in status.seats:
        table.add_row(*(column.cell(seat, status) for column in columns))
    return table


def machines_table(status: StatusReply) -> Table:
    """Build a table with a row for every process: use of resources by process and machine."""
    table = _table()
    for title in ("", "process", "device"):
        table.add_column(title, no_wrap=True)
    for title in ("CPU", "memory", "host CPU", "host mem", "disk", "GPU", "GPU mem"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_row("master", "", "", *_utilization(status.utilization))
    for store in status.stores:
        process = f"{store.host}:{store.pid}" if store.pid else "-"
        table.add_row(f"store {store.number}", process, "", *_utilization(store.utilization))
    for seat in status.seats:
        if seat.incarnation:
            cells = _utilization(seat.telemetry.utilization)
            table.add_row(_place(seat), _address(seat), seat.device, *cells)
    return table


def stores_table(status: StatusReply) -> Table:
    """Build a table with a row for every store: state, bytes and shards, and counts of pushes and pulls."""
    table = _table()
    for title, right in (
        ("store", False), ("state", False), ("heard", True), ("MB", True), ("shards", True), ("pushes", True),
        ("pulls", True), ("CPU s", True),
    ):  # fmt: skip
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for store in status.stores:
        counters = store.counters
        table.add_row(
            f"{store.number}",
            Text(store.state, style="green" if store.state == "serving" else "bold red"),
            f"{store.report_age:.1f} s" if store.pid else "-",
            f"{store.nbytes / 1e6:,.1f}",
            f"{len(store.shards)}",
            f"{counters.pushes:,}",
            f"{counters.pulls:,}",
            f"{counters.cpu_seconds:,.1f}",
        )
    return table


def problems_list(found: Iterable[Problem]) -> Table:
    """Build a list of problems with advice."""
    table = Table.grid(padding=(0, 1, 0, 0))
    for problem in found:
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
    kinds = ("weights", "gradient", "input", "time")
    versions = (status.versions.get(f"{seat.layer}/{kind}") for kind in kinds)
    return "/".join(str(version) for version in versions if version is not None) or "-"


def _staleness(seat: Seat, status: StatusReply) -> Mapping[int, int]:
    return next((layer.staleness for layer in status.layers if layer.layer == seat.layer), {})


def _spread_of(counts: Mapping[int, int]) -> str:
    values = percentiles(counts)
    return f"{values['p50']}/{values['p99']}" if counts else "-"


def _level(seat: Seat, status: StatusReply) -> str:
    """Return the level of the seat's next batch, from 1; "waits" while the level is not decided."""
    batch, levels = seat.telemetry.next_batch, status.curriculum
    return f"{bisect_right(levels.starts, batch)}" if batch < levels.decided else "waits"


def _waiting(seat: Seat) -> float:
    report = seat.telemetry
    return report.waiting_seconds / report.step_seconds if report.step_seconds else 0.0


def _utilization(machine: Utilization) -> list[str]:
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


def format_evaluation(config: Config, evaluation: Evaluation) -> list[str]:
    """Return the task's metrics and the loss of an evaluation, each with its title."""
    known = config.order_metrics(evaluation.metrics)
    values = measures.of({"metrics": known, "test_loss": evaluation.test_loss})
    return [f"{measures.title(name)} {measures.format_value(name, value)}" for name, value in values.items()]


def line(config: Config, status: StatusReply, rate: float) -> str:
    """Summarize the run in a line, seats without a healthy slave first."""
    staleness, delay = percentiles(status.counters.staleness), percentiles(status.delays)
    parts = [
        f"batch {status.batches}/{status.of_batches}",
        f"{rate:,.0f} samples/s",
        f"staleness {staleness['p50']} (max {staleness['max']})",
        f"delay {delay['p50']} (max {delay['max']})",
    ]
    if status.evaluation.versions:
        parts.insert(2, format_evaluation(config, status.evaluation)[0])
    absent = [f"layer {seat.layer} {seat.state}" for seat in status.seats if seat.state in ("late", "vacant")]
    return "  ".join([*absent, *parts])


class Surface(Protocol):
    """Place where a status replaces the one before."""

    def update(self, renderable: RenderableType) -> None:
        """Show a status."""

    def stop(self) -> None:
        """Show no further status."""


class Screen:
    """Progress of a run, by default on standard error: standard output is for results.

    Args:
        config: of the run.
        console: takes the lines that stay.
        surface: shows the status; None: a terminal does, and other consoles get a line now and then.
    """

    def __init__(
        self, config: Config, console: PlainConsole | None = None, surface: Surface | None = None
    ) -> None:
        self._config = config
        self._console = console or PlainConsole(stderr=True)
        self._live = surface
        self._printed_at = 0.0
        self._rates: list[tuple[float, int]] = []
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task(config.run.name, total=config.run.batches)
        if self._live is None and self._console.is_terminal:
            live = Live(console=self._console, refresh_per_second=8, transient=True)
            live.start()
            self._live = live

    def print(self, text: str) -> None:
        """Print a line that stays, above the live table."""
        self._console.print(text, soft_wrap=True)

    def show(self, status: StatusReply) -> None:
        """Show the present status of the run."""
        rate = self._rate(status.batches)
        self._progress.update(self._task, completed=status.batches)
        if self._live:
            summary = Text(line(self._config, status, rate))
            self._live.update(
                Group(self._progress, summary, Text(), slaves_table(status, self._console.width))
            )
        elif time.monotonic() - self._printed_at >= LINE_SECONDS and status.state == "training":
            self._printed_at = time.monotonic()
            self.print(f"{line(self._config, status, rate)}{self._left()}")

    def show_evaluation(self, evaluation: Evaluation) -> None:
        """Print the result of an evaluation."""
        values = "  ".join(format_evaluation(self._config, evaluation))
        self.print(f"batch {evaluation.batches:>6}  {values}")

    def close(self) -> None:
        """Restore the terminal; repeated calls are harmless."""
        if self._live:
            self._live.stop()
            self._live = None

    def _left(self) -> str:
        """Estimate the time to the end of the run from the pace of the last half minute."""
        seconds = self._progress.tasks[0].time_remaining
        return "" if seconds is None else f"  {timedelta(seconds=int(seconds))} left"

    def _rate(self, batches: int) -> float:
        """Compute the samples per second over the last three seconds."""
        now = time.monotonic()
        self._rates = [(then, b) for then, b in self._rates if now - then < 3.0] + [(now, batches)]
        then, before = self._rates[0]
        return (batches - before) * self._config.run.batch_size / (now - then) if now > then else 0.0


def print_result(summary: Mapping[str, Any], path: Path, as_json: bool) -> None:
    """Print the summary of a run on standard output: as JSON, or as a table and the place of the files."""
    if as_json:
        answer(strict_json.encode(summary))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in summary_rows(summary):
        table.add_row(name, value)
    PlainConsole().print(table)
    answer(f"results in {path}")


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List a summary's rows: title and readable value."""
    # A summary of an earlier version has no alignment.
    kind = summary["gradient"] or summary.get("alignment")
    method = summary["unlock"] + (f" ({kind})" if kind else "")
    waiting = [(f"{k}: ", part) for k, part in summary["waiting_fraction"].items()]
    cpu, rss = summary["cpu_seconds"], summary["peak_rss_bytes"]
    rows = [
        ("run", f"{summary['name']}: {summary['dataset']}, {summary['model']} in {summary['layers']} layers"),
        ("method", f"unlock {method}, profile {summary['profile']}"),
        *(
            (measures.title(name), measures.format_value(name, value))
            for name, value in measures.of(summary).items()
        ),
        ("time", f"{summary['wall_seconds']:.1f} s in total"),
        ("throughput", f"{summary['samples_per_second']:,.0f} samples/s while training"),
    ]
    if not summary["slaves"]:
        return rows
    cpus, memories = ([("", value) for value in each["slaves"]] for each in (cpu, rss))
    states = f", {summary['lost_states']:,} states" if summary["lost_states"] else ""
    return [
        *rows,
        ("staleness", _spread(summary["staleness"]) + " pushes"),
        ("delay", _spread(summary["delay"]) + " batches"),
        ("waiting", f"{_list(waiting, _percent)} of a step, by layer"),
        ("pushes, pulls", f"{summary['pushes']:,}, {summary['pulls']:,}"),
        ("restarts, lost", f"{summary['restarts']} processes, {summary['lost_batches']} batches{states}"),
        ("CPU", f"master {_seconds(cpu['master'])}, slaves {_list(cpus, _seconds)}"),
        ("memory", f"master {_mib(rss['master'])}, slaves {_list(memories, _mib)}"),
    ]


def _spread(values: Mapping[str, int]) -> str:
    return f"p50 {values['p50']}, p99 {values['p99']}, max {values['max']}"


def _list(values: Sequence[tuple[str, float]], show: Callable[[float], str]) -> str:
    """List values, each after its name, or the least and the greatest of many."""
    if len(values) > MOST_LISTED:
        ordered = sorted(values, key=lambda each: each[1])
        return " to ".join(f"{name}{show(value)}" for name, value in (ordered[0], ordered[-1]))
    return ", ".join(f"{name}{show(value)}" for name, value in values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _mib(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"
