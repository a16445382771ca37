"""`layerwise status`: how a run goes, as a table or as JSON, once or until it is over."""

from __future__ import annotations

import dataclasses
import json
import time

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from common.messages import StatusReply
from deploy.reader import Reader
from deploy.screen import line, slaves_table

WATCH_SECONDS = 1.0


def show(master: str, as_json: bool, watch: bool) -> int:
    """Print a master's status; with `watch`, until the run is over; the exit code."""
    with Reader(master) as reader:
        if as_json:
            while True:
                status = reader.status()
                click.echo(json.dumps(dataclasses.asdict(status)))
                if not watch or status.state == "done":
                    return 0
                time.sleep(WATCH_SECONDS)
        console = Console(highlight=False)
        status = reader.status()
        if not watch:
            console.print(_page(status))
            return 0
        with Live(_page(status), console=console, auto_refresh=False) as live:
            while status.state != "done":
                time.sleep(WATCH_SECONDS)
                status = reader.status()
                live.update(_page(status), refresh=True)
    return 0


def _page(status: StatusReply) -> Group:
    rate = sum(s.telemetry.samples_per_second for s in status.seats if s.layer == len(status.versions))
    rate = rate or min((s.telemetry.samples_per_second for s in status.seats), default=0.0)
    head = Text(f"{status.name}: {status.state}", style="bold")
    if status.waiting_slaves:
        head.append(f", {status.waiting_slaves} slaves waiting for a layer")
    return Group(head, Text(line(status, rate)), Text(), slaves_table(status))
