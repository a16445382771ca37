"""Subcommands that show or change a live run."""

from __future__ import annotations

from pathlib import Path

import click

from common.config.downpour import MOST_REPLICAS
from common.config.options import json_option, required_master_option, tls_option, token_option


@click.command()
@required_master_option
@tls_option
@json_option
@click.option("--watch", is_flag=True, help="Repeat every second until the run is over or interrupted.")
def status(master: str, tls: Path | None, as_json: bool, watch: bool) -> int:
    """Show the status of a live run: layers, slaves, versions, staleness, throughput, problems."""
    from deploy.status import show

    return show(master, as_json, watch, tls)


@click.command()
@required_master_option
@click.option("--list", "listing", is_flag=True, help="List the snapshots and their damage; take none.")
@token_option
@tls_option
@json_option
def snapshot(master: str, listing: bool, token_file: Path | None, tls: Path | None, as_json: bool) -> int:
    """Take a snapshot of a live run: every shard and every layer's progress, in files of the state directory.

    Training continues meanwhile. The master also takes a snapshot every cluster.snapshot_seconds, and keeps
    the newest three.
    """
    from deploy.snapshots import list_snapshots, take_snapshot

    if listing:
        return list_snapshots(master, as_json, tls)
    return take_snapshot(master, token_file, as_json, tls)


@click.command()
@required_master_option
@click.option(
    "--to",
    "number",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Number of a snapshot (`snapshot --list`). Default: the newest whole one.",
)
@token_option
@tls_option
@json_option
def rollback(
    master: str, number: int | None, token_file: Path | None, tls: Path | None, as_json: bool
) -> int:
    """Roll a live run back to a snapshot; later learning is lost.

    Every slave loses its lease, asks for a new one by itself, and continues from the snapshot.
    """
    from deploy.snapshots import roll_back

    return roll_back(master, number or 0, token_file, as_json, tls)


@click.command()
@click.argument("replicas", nargs=-1, required=True, metavar="R...", type=click.IntRange(1, MOST_REPLICAS))
@required_master_option
@token_option
@tls_option
@json_option
def resize(
    replicas: tuple[int, ...], master: str, token_file: Path | None, tls: Path | None, as_json: bool
) -> int:
    """Change the number of replicas of a live run: R for every layer, or a number for each.

    The master waits until a slave is there for every replica, and announces the batch from which on there are
    R. Every batch is trained once in each layer, before and after. `layerwise status` shows what is missing.
    """
    from deploy.resize import resize as change

    return change(master, replicas, token_file, as_json, tls)
