"""`layerwise snapshot` and `layerwise rollback`, on a live master."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path

from common import strict_json
from common.text import answer
from common.wire.messages import Kept
from deploy.evaluation.reader import Reader


def take_snapshot(master: str, token: Path | None, as_json: bool, tls: Path | None = None) -> int:
    """Have the master at HOST:PORT take a snapshot, and return the exit code.

    Raises:
        LayerwiseError: the master does not answer, refuses, or cannot write the snapshot.
    """
    with Reader(master, token, tls) as reader:
        snapshot = reader.snapshot()
    answer(strict_json.encode(dataclasses.asdict(snapshot)) if as_json else _line(snapshot))
    return 0


def list_snapshots(master: str, as_json: bool, tls: Path | None = None) -> int:
    """Print the snapshots of the master at HOST:PORT, oldest first, and return the exit code.

    Raises:
        LayerwiseError: the master does not answer, or refuses.
    """
    with Reader(master, tls=tls) as reader:
        snapshots = reader.snapshots()
    if as_json:
        answer(strict_json.encode([dataclasses.asdict(snapshot) for snapshot in snapshots]))
        return 0
    for snapshot in snapshots:
        answer(_line(snapshot))
    if not snapshots:
        answer("no snapshots yet")
    return 0


def roll_back(master: str, number: int, token: Path | None, as_json: bool, tls: Path | None = None) -> int:
    """Roll the run back, to the newest whole snapshot if the number is 0, and return the exit code.

    Raises:
        LayerwiseError: the master does not answer or refuses, or has no such snapshot.
    """
    with Reader(master, token, tls) as reader:
        reply = reader.roll_back(number)
    if as_json:
        answer(strict_json.encode(dataclasses.asdict(reply)))
        return 0
    answer(f"rolled back to {_line(reply.snapshot)}")
    lost = sum(max(0, v - reply.snapshot.versions.get(name, 0)) for name, v in reply.before.items())
    answer(f"pushes given up: {lost:,}; leases ended: {reply.fenced}; the slaves join again by themselves")
    return 0


def _line(snapshot: Kept) -> str:
    if snapshot.damage:
        return f"snapshot {snapshot.number}: cannot be used: {snapshot.damage}"
    when = datetime.fromtimestamp(snapshot.time).isoformat(" ", "seconds")
    versions = ", ".join(f"{name} {version:,}" for name, version in sorted(snapshot.versions.items()))
    size = f"{snapshot.nbytes / 2**20:,.1f} MiB"
    return f"snapshot {snapshot.number} of {when}, {size}: {versions or 'no shards yet'}"
