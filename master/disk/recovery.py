"""A start on a state directory that is not as a master left it: a power cut, a torn file, half a rollback."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any

from common.config import files
from common.config.sections import Config
from common.errors import RefusedError, RunFailedError
from master.disk.snapshots import Snapshot, Snapshots
from master.disk.state import StateDirectory, unseal
from master.store.shard import Slots

log = logging.getLogger("layerwise.master")

ROSTER = "roster.json"
# Holds the number of the snapshot that a rollback is putting back; gone once it has.
ROLLBACK = "rollback"
# Incarnations that may have been granted since a snapshot: so many are left out where the roster is lost.
UNKNOWN_GRANTS = 1 << 20


@dataclass(frozen=True)
class Recovery:
    """What has to be put right before anything is served, and why. Every slave is fenced then.

    Attributes:
        why: what had happened.
        snapshot: what is put back; None: there was none, and the run begins anew.
        shards: the shards that are put back, or removed where the snapshot has none of that name.
        before: the versions that the files of these claimed, as far as they could be read.
        damage: a line for each file that could not be used.
    """

    why: str
    snapshot: Snapshot | None = None
    shards: frozenset[str] = frozenset()
    before: dict[str, int] = field(default_factory=dict)
    damage: tuple[str, ...] = ()

    @property
    def run(self) -> dict[str, Any]:
        """What is kept beside the shards."""
        return self.snapshot.run if self.snapshot else {}

    @property
    def after(self) -> dict[str, int]:
        """The versions of these shards once they are put back."""
        versions = self.snapshot.versions if self.snapshot else {}
        return {name: version for name, version in versions.items() if name in self.shards}

    @property
    def lost(self) -> int:
        """Acknowledged pushes that are gone, as far as is known."""
        after = self.after
        return sum(max(0, version - after.get(name, 0)) for name, version in self.before.items())

    def put_back(self, state: StateDirectory) -> None:
        """Make the files what they have to be; done again after a crash, it comes to the same."""
        known = self.snapshot.shards if self.snapshot else {}
        for name in sorted(self.shards):
            if self.snapshot is None or name not in known:
                state.remove(name)
            else:
                fill, room = self.snapshot.filler(name), self.snapshot.room(name)
                state.put_back(name, self.snapshot.table(name), self.snapshot.record(name), fill, room)

    def report(self, state: StateDirectory) -> None:
        """Into the log, and the event log."""
        for line in self.damage:
            log.warning("%s", line)
        number = self.snapshot.number if self.snapshot else 0
        source = f"snapshot {number}" if number else "nothing, for there was no snapshot"
        text = "%s; going on from %s; acknowledged pushes lost, as far as is known: %d"
        log.warning(text, self.why, source, self.lost)
        said = {"why": self.why, "snapshot": number, "before": self.before, "after": self.after}
        state.log({"event": "recovered", **said, "lost_pushes": self.lost, "damage": list(self.damage)})


def recover(state: StateDirectory, snapshots: Snapshots) -> tuple[dict[str, Any], Recovery | None]:
    """What was saved of the run, and what has to be put right.

    Raises:
        RunFailedError: something is damaged, and there is no whole snapshot to put it back from.
    """
    damage: list[str] = []
    saved, source = _saved(state, snapshots, damage)
    found, damaged = state.survey()
    damage += damaged.values()
    shards = frozenset([*found, *damaged])
    wanted = state.read(ROLLBACK)
    snapshot: Snapshot | None
    if wanted is not None:
        why, snapshot = "a rollback had been interrupted", snapshots.get(int(wanted))
    elif state.other_boot and (shards or snapshots.numbers()):
        why = "the machine was started anew: what was written last may never have reached its disk"
        snapshot = _newest(snapshots, damage)
    elif damaged:
        why, snapshot, shards = "a shard's file is damaged", _newest(snapshots, damage), frozenset(damaged)
        if snapshot is None or not shards <= {*snapshot.shards}:
            raise RunFailedError(damage[0])
        return saved, _recovery(why, snapshot, shards, found, damage)
    else:
        return saved, Recovery(f"{ROSTER} is damaged", source, damage=tuple(damage)) if source else None
    return saved, _recovery(why, snapshot, shards | {*(snapshot.shards if snapshot else ())}, found, damage)


def _recovery(
    why: str, snapshot: Snapshot | None, shards: frozenset[str], found: dict[str, Slots], damage: list[str]
) -> Recovery:
    before = {name: slots.record.version for name, slots in found.items() if name in shards}
    return Recovery(why, snapshot, shards, before, tuple(damage))


def _saved(
    state: StateDirectory, snapshots: Snapshots, damage: list[str]
) -> tuple[dict[str, Any], Snapshot | None]:
    """Leases and counts as they were saved last; or where that cannot be read, a snapshot's, and which."""
    text = state.read(ROSTER)
    if text is None:
        return {}, None
    try:
        return unseal(text, state.path / ROSTER), None
    except RunFailedError as error:
        damage.append(str(error))
        snapshot = _newest(snapshots, damage)
        if snapshot is None:
            raise
    roster = {**snapshot.run["roster"]}
    roster["incarnations"] += UNKNOWN_GRANTS
    return {**snapshot.run, "roster": roster}, snapshot


def _newest(snapshots: Snapshots, damage: list[str]) -> Snapshot | None:
    """The newest whole snapshot; None where none was ever taken.

    Raises:
        RunFailedError: there are some, and none is whole.
    """
    snapshot, unusable = snapshots.newest_whole()
    damage += unusable
    if snapshot is None and unusable:
        raise RunFailedError(f"{unusable[0]}; no snapshot is whole: restore the state directory from a copy")
    return snapshot


def resume_config(config: Config, state: StateDirectory) -> Config:
    """The run's configuration, which the state directory keeps.

    Raises:
        RefusedError: the directory holds a run of another configuration.
    """
    text = state.read("config.toml")
    if text is None:
        state.write("config.toml", config.to_toml())
        return config
    kept = files.parse(text, str(state.path / "config.toml"))
    if kept != config:
        raise RefusedError(
            f"{state.path}: holds a run of another configuration ({_difference(kept, config)}); give the "
            "configuration it was started with, or another --state-dir"
        )
    return kept


def _difference(kept: Config, given: Config) -> str:
    old, new = dataclasses.asdict(kept), dataclasses.asdict(given)
    for section, values in old.items():
        for name, value in values.items():
            if value != new[section][name]:
                return f"{section}.{name} is {value!r} there and {new[section][name]!r} here"
    return "they differ"
