"""`layerwise snapshot` and `layerwise rollback`: what a live master keeps of its run."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime

import click

from common.wire.messages import Kept
from deploy.evaluation.reader import Reader


def take_snapshot(master: str, as_json: bool) -> int:
    """Have one taken; the exit code."""
    with Reader(master) as reader:
        taken = reader.snapshot()
    click.echo(json.dumps(dataclasses.asdict(taken)) if as_json else _line(taken))
    return 0


def list_snapshots(master: str, as_json: bool) -> int:
    """Print those that there are, oldest first; the exit code."""
    with Reader(master) as reader:
        found = reader.snapshots()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in found]))
        return 0
    for each in found:
        click.echo(_line(each))
    if not found:
        click.echo("no snapshots yet")
    return 0


def roll_back(master: str, number: int, as_json: bool) -> int:
    """Put the run back, to the newest whole one if the number is 0; the exit code."""
    with Reader(master) as reader:
        reply = reader.roll_back(number)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(reply)))
        return 0
    click.echo(f"back at {_line(reply.snapshot)}")
    lost = sum(max(0, v - reply.snapshot.versions.get(name, 0)) for name, v in reply.before.items())
    click.echo(
        f"given up: {lost:,} pushes; leases ended: {reply.fenced}; the slaves join again by themselves"
    )
    return 0


def _line(kept: Kept) -> str:
    if kept.damage:
        return f"snapshot {kept.number}: cannot be used: {kept.damage}"
    when = datetime.fromtimestamp(kept.time).isoformat(" ", "seconds")
    versions = ", ".join(f"{name} {version:,}" for name, version in sorted(kept.versions.items()))
    return f"snapshot {kept.number} of {when}, {kept.nbytes / 2**20:,.1f} MiB: {versions or 'no shards yet'}"
