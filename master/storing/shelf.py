"""Shards of a store: pushes and pulls of slaves that the master has listed, and the master's orders."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

from common import strict_json
from common.config.resizing import most_replicas
from common.config.sections import Config
from common.errors import LayerwiseError, RunFailedError
from common.lifecycle import cpu_seconds, peak_rss_bytes
from common.shards.table import Table
from common.wire.stages import Stage
from common.wire.stores import AttendRequest, ShardState, StoreOrder, StoreTask, TaskKind, TaskResult
from master.disk.recovery import resume_config
from master.disk.shelves import DiskThread, OwnShelves
from master.disk.snapshots import Snapshot, Snapshots
from master.disk.state import StateDirectory, seal, unseal
from master.leases import ListedLeases
from master.parameters import ParameterService
from master.store.policies import policies
from master.store.shard import BufferPair
from master.store.store import Store
from master.tally import Tally

# Files of the directory: names of store and run, the counts of pushes and pulls, and the reason for which the
# shards' files are not to be used.
NAMES, COUNTS, DISTRUST = "store", "counts.json", "distrust"
# Of the manifest of a part: the task that took it.
TASK = "task"


class Shelf:
    """Shards in a state directory.

    Args:
        config: of the run, resolved.
        state: the store's directory.

    Attributes:
        name: of the store, random, kept in the directory.
        run: name of the run whose shards are here; empty for none.
        trouble: damage for which the shards have to be put back from a snapshot; empty without. Shards that
            were damaged when the store started are not served meanwhile.
        leases: as the master listed them last.
        parameters: pushes and pulls.
        tally: counts of both.

    Raises:
        RefusedError: the directory holds a run of another configuration.
        RunFailedError: a small file of the directory is damaged.
    """

    def __init__(self, config: Config, state: StateDirectory) -> None:
        self._state = state
        config = resume_config(config, state)
        self.name, self.run = self._names()
        self._snapshots = Snapshots(state.path / "snapshots", state.files)
        # Shards with files that are not to be used, until the store has put the shards back.
        self._distrusted: set[str] = set()
        self.trouble = self._survey()
        self._distrusts = bool(self.trouble)
        state.note_boot()
        self.store = Store(_Fresh(state) if self._distrusts else state, policies(config))
        self._shelves = OwnShelves(self._snapshots, self.store, state, DiskThread(state.path))
        # The next batch of one of R replicas may lie R - 1 past the last batch.
        self.leases = ListedLeases(config.batch_bound + most_replicas(config) - 1)
        self._stage = Stage(0, config.replicas)
        self.tally = Tally.restore(self._counts())
        self.parameters = ParameterService(self.leases, self.store, self.tally)
        self._listed: set[int] = set()

    def _survey(self) -> str:
        """Look for damage in the shards' files; returns the reason to distrust them all, or an empty text.

        The reason is kept in the directory: a store that dies while it puts its shards back distrusts them
        again.
        """
        state = self._state
        found, damaged = state.survey()
        newest = self._snapshots.newest()
        missing = {*(newest.shards if newest else ())} - found.keys() - damaged.keys()
        why = state.read(DISTRUST) or ""
        if not why and state.other_boot and (found or damaged or newest):
            why = "the machine was restarted: the last writes may never have reached the disk"
        if not why and damaged:
            why = next(iter(damaged.values()))
        if not why and missing:
            why = f"{state.shard_path(min(missing))}: is missing"
        if why:
            state.write(DISTRUST, why)
            self._distrusted = {*found, *damaged}
            state.pairs.clear()
        return why

    def _names(self) -> tuple[str, str]:
        """Read the names of store and run; the first process makes the store's."""
        text = self._state.read(NAMES)
        if text is not None:
            try:
                names = json.loads(text)
                return str(names["store"]), str(names["run"])
            except (ValueError, KeyError, TypeError):
                raise RunFailedError(
                    f"{self._state.path / NAMES}: is no JSON with the names of store and run; restore the "
                    "file from a copy"
                ) from None
        name = uuid.uuid4().hex
        self._write_names(name, "")
        return name, ""

    def _write_names(self, name: str, run: str) -> None:
        self._state.write(NAMES, strict_json.encode({"store": name, "run": run}) + "\n")

    def _counts(self) -> dict[str, Any]:
        text = self._state.read(COUNTS)
        return {} if text is None else unseal(text, self._state.path / COUNTS)

    def note_run(self, run: str) -> None:
        """Note whose shards are here, before the first of them comes.

        Raises:
            NoRoomError: the disk has no room.
        """
        if run != self.run:
            self._write_names(self.name, run)
            self.run = run

    def obey(self, order: StoreOrder) -> bool:
        """Make an order true; blocks. False: the shards have to be put back first.

        When this returns true, no push of a lease that is not listed any more can come in.
        """
        if self._distrusts:
            return False
        self.leases.learn(order)
        listed = {lease.incarnation for lease in order.leases}
        # Each takes every shard's lock: a push that saw the old list has been committed, or is refused.
        for incarnation in sorted((self._listed | self.store.incarnations()) - listed):
            self.store.forget(incarnation)
        self._listed = listed
        # After the pushes of earlier replicas.
        if order.stage.replicas and order.stage != self._stage:
            self.store.deal(order.stage.start, order.stage.replicas)
            self._stage = order.stage
        return True

    def perform(self, task: StoreTask) -> TaskResult:
        """Do a task, or find out why not; blocks."""
        try:
            match task.kind:
                case TaskKind.TAKE:
                    part = self._take(task)
                case TaskKind.CHECK:
                    part = self._snapshots.get(task.snapshot)
                    part.check()
                    self._shelves.check_room(part)
                case TaskKind.RESTORE:
                    part = self._restore(task.snapshot)
                case TaskKind.PRUNE:
                    self._snapshots.keep({*task.kept})
                    return TaskResult(task.number)
                case _:
                    return TaskResult(task.number, f"this store knows no task {task.kind.name}")
        except LayerwiseError as error:
            return TaskResult(task.number, str(error))
        except OSError as error:
            return TaskResult(task.number, f"{self._state.path}: {error.strerror}; free disk space")
        return TaskResult(task.number, nbytes=part.nbytes, versions=part.versions)

    def _take(self, task: StoreTask) -> Snapshot:
        """Take a part of a snapshot; the same task takes one part, however often it is done."""
        if self.trouble:
            raise RunFailedError(f"{self.trouble}; a snapshot would keep the damage")
        self._state.check_in_place()
        if task.snapshot in self._snapshots.numbers():
            part = self._snapshots.get(task.snapshot)
            if part.run.get(TASK) == task.number:
                return part
            # Of a snapshot that an earlier master gave up.
            self._snapshots.keep({*self._snapshots.numbers()} - {task.snapshot})
        return self._snapshots.write(task.snapshot, self.store, {TASK: task.number})

    def _restore(self, number: int) -> Snapshot:
        part = self._snapshots.get(number)
        self._shelves.restore(part)
        for name in self._distrusted - part.shards.keys():
            self._state.remove(name)
        self._state.discard(DISTRUST)
        self._distrusted, self._distrusts, self.trouble = set(), False, ""
        return part

    def report(self) -> AttendRequest:
        """Describe the shards, for a report of the process."""
        counters = replace(self.tally.counters(), cpu_seconds=cpu_seconds(), peak_rss_bytes=peak_rss_bytes())
        shards = [
            ShardState(name, record.version, dict(record.progress), nbytes)
            for name, (record, nbytes) in self.store.records().items()
        ]
        return AttendRequest(
            self.name,
            run=self.run,
            shards=shards,
            counters=counters,
            layers=self.tally.by_layer(),
            trouble=self.trouble,
            snapshots=self._snapshots.numbers(),
            seats=self.tally.by_seat(),
        )

    def save(self) -> None:
        """Write the counts; pushes are durable by themselves."""
        self._state.write(COUNTS, seal(self.tally.dump()))

    def close(self) -> None:
        """Bring everything to the disk, once no call is served any more.

        A machine that is switched off next loses nothing: the files need no boot to vouch for them.
        """
        self.save()
        self._state.vouch()


class _Fresh:
    """Backing without the shards of earlier processes, whose files are not to be used."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state

    def create(self, name: str, table: Table, nbytes: int) -> BufferPair:
        """Give a new shard a file, in the place of the old one."""
        return self._state.create(name, table, nbytes)

    def load(self) -> dict[str, BufferPair]:
        """Nothing is there."""
        return {}

    def remove(self, name: str) -> None:
        """Remove a shard's file."""
        self._state.remove(name)
