"""`layerwise status`: the status of a live run, as a table or as JSON, once or until the run is over."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from common import strict_json
from common.config.sections import Config
from common.errors import UnreachableError
from common.observe.joining import slave_command
from common.observe.problems import Problem, problems
from common.observe.streams import is_output_gone
from common.text import answer
from common.wire.messages import StatusReply
from deploy.console import PlainConsole
from deploy.evaluation.reader import Reader
from deploy.screen import line, machines_table, problems_list, slaves_table, stores_table

WATCH_SECONDS = 1.0


def show(master: str, as_json: bool, watch: bool, tls: Path | None = None) -> int:
    """Print a master's status and return the exit code.

    With `watch` the status is printed until the run is over, or the reader of standard output has gone.

    Raises:
        UnreachableError: the master does not answer the first request; later ones are repeated until it does.
    """
    with Reader(master, tls=tls) as reader:
        config = reader.config()
        view = _StatusView(config, slave_command(config, master, secure=tls is not None))
        status = reader.status()
        later = view.follow(reader, status) if watch else iter(())
        if as_json:
            answer(view.json(status))
            for status in later:
                if not view.silent:
                    answer(view.json(status))
            return 0
        console = PlainConsole()
        if not watch or not console.is_terminal:
            console.print(view.render(status, console.width))
            # A file or a pipe gets one status after the other: there is no screen to draw over.
            for status in later:
                console.print(Text(), view.render(status, console.width), sep="\n")
            return 0
        with Live(view.render(status, console.width), console=console, auto_refresh=False) as live:
            for status in later:
                live.update(view.render(status, console.width), refresh=True)
    return 0


class _StatusView:
    """Presentation of a run's status, and of a master that does not answer.

    Args:
        config: the run's.
        slave: command of another slave.
    """

    def __init__(self, config: Config, slave: str) -> None:
        self._config = config
        self._slave = slave
        self._silent_since: float | None = None

    @property
    def silent(self) -> bool:
        """True if the master did not answer the last request."""
        return self._silent_since is not None

    def follow(self, reader: Reader, status: StatusReply) -> Iterator[StatusReply]:
        """Yield the status every second, until the run is over or the reader of standard output has gone."""
        while status.state != "done" and not is_output_gone():
            time.sleep(WATCH_SECONDS)
            status = self.refresh(reader, status)
            yield status

    def refresh(self, reader: Reader, known: StatusReply) -> StatusReply:
        """Ask for the present status; while the master is away, return `known`."""
        try:
            status = reader.status(2.0)
        except UnreachableError:
            self._silent_since = self._silent_since or time.monotonic()
            return known
        self._silent_since = None
        return status

    def json(self, status: StatusReply) -> str:
        """Format the whole status and the problems as a JSON object."""
        found = [dataclasses.asdict(problem) for problem in self._problems(status)]
        return strict_json.encode({**dataclasses.asdict(status), "problems": found})

    def _problems(self, status: StatusReply) -> list[Problem]:
        return problems(status, self._config, self._slave)

    def render(self, status: StatusReply, width: int) -> Group:
        """Render the problems, a summary of the run, the layers and the machines."""
        head = Text(f"{status.name}: {status.state}", style="bold")
        if status.waiting_slaves:
            head.append(f", {status.waiting_slaves} slaves waiting for a layer")
        if status.resizing.start:
            counts = " ".join(map(str, status.resizing.replicas))
            head.append(f", {counts} replicas by layer from batch {status.resizing.start:,} on")
        if self._silent_since is not None:
            silence = time.monotonic() - self._silent_since
            head.append(f"; the master has not answered for {silence:.0f} s", style="bold red")
        parts: list[RenderableType] = [head]
        found = self._problems(status)
        if found:
            parts.append(problems_list(found))
        parts += [Text(line(self._config, status, _rate(status))), Text(), slaves_table(status, width)]
        if status.stores:
            parts += [Text(), stores_table(status)]
        return Group(*parts, Text(), machines_table(status))


def _rate(status: StatusReply) -> float:
    """Sum the samples per second of the top layer's replicas."""
    top = max(seat.layer for seat in status.seats)
    return sum(seat.telemetry.samples_per_second for seat in status.seats if seat.layer == top)
