"""Roster of a run from the values of an earlier master, live or at rest. Pure."""

from __future__ import annotations

from typing import Any

from common.config.sections import Config
from master.effects import Effect
from master.keyring import Keyring
from master.resizing import Change
from master.roster import Roster
from master.stores import Stores


def restore_roster(config: Config, change: Change, saved: dict[str, Any], keyring: Keyring) -> Roster:
    """Restore the roster of a run.

    Args:
        config: resolved configuration.
        change: says the present replicas.
        saved: the run's values from its last master; empty at the run's beginning.
        keyring: as of `Roster`.
    """
    beats = config.cluster.heartbeat_seconds, config.cluster.misses
    replicas, broadcasts = change.replicas, config.decoupling.broadcasts
    bound = config.batch_bound
    roster = Roster(replicas, *beats, saved.get("roster"), bound, keyring=keyring, broadcasts=broadcasts)
    roster.seating.last = change.end is None
    return roster


def restore_stores(config: Config, saved: dict[str, Any], epoch: int) -> Stores | None:
    """Restore the stores of a run; None where the master keeps the shards.

    Args:
        config: resolved configuration.
        saved: the run's values from its last master; empty at the run's beginning.
        epoch: number of this master among the run's masters.
    """
    cluster = config.cluster
    if not cluster.stores:
        return None
    # A call is held for a heartbeat.
    patience = cluster.heartbeat_seconds * (cluster.misses + 1)
    return Stores(config.replicas, cluster.stores, patience, epoch, saved.get("stores", {}))


def fence_saved(
    config: Config, saved: dict[str, Any], snapshot: dict[str, Any], reason: str, now: float
) -> tuple[dict[str, Any], list[Effect]]:
    """End every lease of a run at rest, as `Run.begin_rollback` does of a live one.

    Args:
        config: resolved configuration.
        saved: the run's values from its last master.
        snapshot: values kept with the snapshot that is put back; empty: the run begins anew.
        reason: for the event log.
        now: seconds of a monotonic clock.

    Returns:
        The values to go on with, and the effects once a master does.
    """
    change = Change(config, saved)
    # Nobody is granted a lease here.
    roster = restore_roster(config, change, saved, Keyring(b""))
    roster.seating.last = change.rewind(snapshot)
    events = roster.roll_back(snapshot.get("roster", {}), reason, now, change.replicas)
    fenced = {**saved, **change.dump(), "roster": roster.dump(now)}
    fenced["evaluation"] = snapshot.get("evaluation", {})
    return fenced, [Effect.of(event) for event in events]
