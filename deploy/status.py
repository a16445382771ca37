"""`layerwise status`: how a run goes, as a table or as JSON, once or until it is over."""

from __future__ import annotations

import dataclasses
import json
import time

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from common.config.sections import Config
from common.errors import UnreachableError
from common.observe.problems import problems
from common.wire.messages import StatusReply
from deploy.evaluation.reader import Reader
from deploy.screen import line, machines_table, problems_list, slaves_table

WATCH_SECONDS = 1.0


def show(master: str, as_json: bool, watch: bool) -> int:
    """Print a master's status; with `watch`, until the run is over; the exit code.

    Raises:
        UnreachableError: no master answers there; once it has, `watch` waits for it to come back.
    """
    with Reader(master) as reader:
        page = _Page(reader.config(), master)
        status = reader.status()
        if as_json:
            click.echo(page.json(status))
            while watch and status.state != "done":
                time.sleep(WATCH_SECONDS)
                status = page.followed(reader, status)
                if not page.silent:
                    click.echo(page.json(status))
            return 0
        console = Console(highlight=False)
        if not watch:
            console.print(page.drawn(status, console.width))
            return 0
        with Live(page.drawn(status, console.width), console=console, auto_refresh=False) as live:
            while status.state != "done":
                time.sleep(WATCH_SECONDS)
                status = page.followed(reader, status)
                live.update(page.drawn(status, console.width), refresh=True)
    return 0


class _Page:
    """A status as it is shown."""

    def __init__(self, config: Config, master: str) -> None:
        self._config = config
        self._master = master
        self._silent_since: float | None = None

    @property
    def silent(self) -> bool:
        """Whether the master did not answer when it was asked last."""
        return self._silent_since is not None

    def followed(self, reader: Reader, known: StatusReply) -> StatusReply:
        """The status now; while the master is away, what is known."""
        try:
            status = reader.status(2.0)
        except UnreachableError:
            self._silent_since = self._silent_since or time.monotonic()
            return known
        self._silent_since = None
        return status

    def json(self, status: StatusReply) -> str:
        """All of it, and what is wrong."""
        wrong = [dataclasses.asdict(each) for each in problems(status, self._config, self._master)]
        return json.dumps({**dataclasses.asdict(status), "problems": wrong})

    def drawn(self, status: StatusReply, width: int) -> Group:
        """What is wrong, then the run in a line, its layers and its machines."""
        head = Text(f"{status.name}: {status.state}", style="bold")
        if status.waiting_slaves:
            head.append(f", {status.waiting_slaves} slaves waiting for a layer")
        if self._silent_since is not None:
            silent = time.monotonic() - self._silent_since
            head.append(f"; the master has not answered for {silent:.0f} s", style="bold red")
        parts: list[RenderableType] = [head]
        wrong = problems(status, self._config, self._master)
        if wrong:
            parts.append(problems_list(wrong))
        parts += [Text(line(status, _rate(status))), Text(), slaves_table(status, width)]
        return Group(*parts, Text(), machines_table(status))


def _rate(status: StatusReply) -> float:
    """Samples a second through the top layer, by all of its replicas."""
    top = max(seat.layer for seat in status.seats)
    return sum(seat.telemetry.samples_per_second for seat in status.seats if seat.layer == top)
