"""Rows of a race in a folder, a file each: DIR/NETWORK-ROUND/WAY--PLACE.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.racing import standings
from benchmarks.racing.cases import NETWORKS
from benchmarks.racing.ways import ONE
from common.errors import ConfigError

Row = dict[str, Any]
# Rows of one place by way, for every round.
Rounds = list[dict[str, Row]]


def read_row(file: Path) -> Row:
    """Read a row."""
    row: Row = json.loads(file.read_text(encoding="utf-8"))
    return row


def kept_rows(out: Path) -> dict[str, dict[str, Rounds]]:
    """Read the rows in a folder: by network and place, for every round by way."""
    found: dict[str, dict[str, Rounds]] = {}
    for network in NETWORKS:
        for turn in sorted(out.glob(f"{network}-*"), key=lambda folder: int(folder.name.rpartition("-")[2])):
            places: dict[str, dict[str, Row]] = {}
            for file in sorted(turn.glob("*.json")):
                way, _, place = file.stem.partition("--")
                places.setdefault(place, {})[way] = read_row(file)
            for place, rows in places.items():
                found.setdefault(network, {}).setdefault(place, []).append(rows)
    return found


def target_of(places: Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]]) -> float:
    """Return the target of a network's rows.

    Raises:
        ConfigError: the row of one thread on loopback is not there.
    """
    for turn in places.get("loopback", []):
        if ONE.name in turn:
            return standings.choose_target(turn[ONE.name]["curve"])
    raise ConfigError(f"--out: there is no row of {ONE.name}/loopback, which sets the target; play it first")


def tables(out: Path) -> str:
    """Format the tables of the rows in a folder, of each network and place.

    Raises:
        ConfigError: there are no rows.
    """
    rows = kept_rows(out)
    if not rows:
        raise ConfigError(f"--out {out}: has no rows; play the race first")
    parts = []
    for network, places in rows.items():
        target = target_of(places)
        for place, rounds in places.items():
            head = f"{network}, {place}, to a loss of {target:.4f}, rounds: {len(rounds)}"
            parts.append(f"{head}\n\n{standings.table(rounds, target)}")
    return "\n\n".join(parts)
