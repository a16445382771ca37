"""Recovery at a start: after a power cut, with torn files, or in the middle of a rollback."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any

from common.config import files
from common.config.sections import Config
from common.errors import LayerwiseError, RefusedError, RunFailedError
from master.disk.snapshots import Snapshot, Snapshots
from master.disk.state import StateDirectory, unseal
from master.store.shard import BufferPair

log = logging.getLogger("layerwise.master")

ROSTER = "roster.json"
# Names the snapshot that a rollback puts back; removed at the rollback's end.
ROLLBACK = "rollback"
# Most incarnations granted since a snapshot: skipped where the roster is lost.
UNKNOWN_GRANTS = 1 << 20


@dataclass(frozen=True)
class Recovery:
    """Repairs before the first call is served; every slave is fenced.

    Attributes:
        reason: cause of the damage.
        snapshot: source of the repairs; None: no snapshot exists, and the run begins anew.
        shards: shards to put back, or to remove where the snapshot lacks them.
        before: versions in the damaged files, as far as readable.
        damage: a line for each unusable file.
    """

    reason: str
    snapshot: Snapshot | None = None
    shards: frozenset[str] = frozenset()
    before: dict[str, int] = field(default_factory=dict)
    damage: tuple[str, ...] = ()

    @property
    def run(self) -> dict[str, Any]:
        """Values beside the shards; empty without a snapshot."""
        return self.snapshot.run if self.snapshot else {}

    @property
    def after(self) -> dict[str, int]:
        """Versions of the shards after the repairs."""
        versions = self.snapshot.versions if self.snapshot else {}
        return {name: version for name, version in versions.items() if name in self.shards}

    @property
    def lost_pushes(self) -> int:
        """Number of lost acknowledged pushes, as far as known."""
        after = self.after
        return sum(max(0, version - after.get(name, 0)) for name, version in self.before.items())

    def put_back(self, state: StateDirectory) -> None:
        """Repair the files; idempotent, for a crash on the way."""
        known = self.snapshot.shards if self.snapshot else {}
        for name in sorted(self.shards):
            if self.snapshot is None or name not in known:
                state.remove(name)
            else:
                fill, room = self.snapshot.filler(name), self.snapshot.room(name)
                state.put_back(name, self.snapshot.table(name), self.snapshot.record(name), fill, room)

    def report(self, state: StateDirectory) -> None:
        """Write the recovery to the log and the event log."""
        for line in self.damage:
            log.warning("%s", line)
        number = self.snapshot.number if self.snapshot else 0
        source = f"snapshot {number}" if number else "nothing, for there was no snapshot"
        text = "%s; going on from %s; acknowledged pushes lost, as far as is known: %d"
        log.warning(text, self.reason, source, self.lost_pushes)
        event = {"why": self.reason, "snapshot": number, "before": self.before, "after": self.after}
        damage = list(self.damage)
        state.log({"event": "recovered", **event, "lost_pushes": self.lost_pushes, "damage": damage})


def recover(
    state: StateDirectory, snapshots: Snapshots, *, keeps_shards: bool = True
) -> tuple[dict[str, Any], Recovery | None]:
    """Read the run's saved values, and find the repairs that the directory needs.

    Args:
        state: the directory.
        snapshots: in the directory.
        keeps_shards: whether the run's shards belong there; a power cut harms no other file.

    Raises:
        RunFailedError: a file is damaged, and no whole snapshot can replace the file.
    """
    damage: list[str] = []
    saved, source = _read_saved(state, snapshots, damage)
    found, damaged = state.survey()
    newest = snapshots.newest()
    here = newest.shards if newest and not newest.parted else ()
    for name in sorted({*here} - found.keys() - damaged.keys()):
        damaged[name] = f"{state.shard_path(name)}: is missing"
    damage += damaged.values()
    shards = frozenset([*found, *damaged])
    wanted = state.read(ROLLBACK)
    snapshot: Snapshot | None
    if wanted is not None:
        reason, snapshot = "a rollback had been interrupted", _find_wanted(wanted, state, snapshots)
    elif keeps_shards and state.other_boot and (saved or shards or snapshots.numbers()):
        reason = "the machine was restarted: the last writes may never have reached the disk"
        snapshot = _newest(snapshots, damage)
    elif damaged:
        reason, snapshot, shards = "a shard's file is damaged", _newest(snapshots, damage), frozenset(damaged)
        if snapshot is None or not shards <= {*snapshot.shards}:
            raise RunFailedError(damage[0])
        return saved, _recovery(reason, snapshot, shards, found, damage)
    else:
        return saved, Recovery(f"{ROSTER} is damaged", source, damage=tuple(damage)) if source else None
    if snapshot is None or not snapshot.parted:
        shards |= {*(snapshot.shards if snapshot else ())}
    return saved, _recovery(reason, snapshot, shards, found, damage)


def _recovery(
    reason: str,
    snapshot: Snapshot | None,
    shards: frozenset[str],
    found: dict[str, BufferPair],
    damage: list[str],
) -> Recovery:
    before = {name: pair.record.version for name, pair in found.items() if name in shards}
    return Recovery(reason, snapshot, shards, before, tuple(damage))


def _read_saved(
    state: StateDirectory, snapshots: Snapshots, damage: list[str]
) -> tuple[dict[str, Any], Snapshot | None]:
    """Read the last saved values; if unreadable, take a snapshot's, and return the snapshot too."""
    try:
        text = state.read(ROSTER)
        if text is None:
            return {}, None
        return unseal(text, state.path / ROSTER), None
    except RunFailedError as error:
        damage.append(str(error))
        snapshot = _newest(snapshots, damage)
        if snapshot is None:
            raise
    roster = {**snapshot.run["roster"]}
    roster["incarnations"] += UNKNOWN_GRANTS
    return {**snapshot.run, "roster": roster}, snapshot


def _find_wanted(wanted: str, state: StateDirectory, snapshots: Snapshots) -> Snapshot:
    """Find the snapshot that an interrupted rollback puts back.

    Raises:
        RunFailedError: there is no such snapshot, or the snapshot is damaged.
    """
    advice = f"write the number of a whole snapshot into {state.path / ROLLBACK}: {snapshots.numbers()}"
    try:
        snapshot = snapshots.get(int(wanted))
        snapshot.check()
    except (ValueError, LayerwiseError) as error:
        raise RunFailedError(f"{state.path / ROLLBACK}: cannot be finished: {error}; {advice}") from None
    return snapshot


def _newest(snapshots: Snapshots, damage: list[str]) -> Snapshot | None:
    """Find the newest whole snapshot; None without a snapshot.

    Raises:
        RunFailedError: every snapshot is damaged.
    """
    snapshot, unusable = snapshots.newest_whole()
    damage += unusable
    if snapshot is None and unusable:
        raise RunFailedError(f"{unusable[0]}; no snapshot is whole: restore the state directory from a copy")
    return snapshot


def resume_config(config: Config, state: StateDirectory) -> Config:
    """Keep a new run's configuration in the state directory, or check it against the kept configuration.

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
            "original configuration, or another --state-dir"
        )
    return kept


def _difference(kept: Config, given: Config) -> str:
    old, new = dataclasses.asdict(kept), dataclasses.asdict(given)
    for section, values in old.items():
        for name, value in values.items():
            if value != new[section][name]:
                return f"{section}.{name} is {value!r} there and {new[section][name]!r} here"
    return "they differ"
