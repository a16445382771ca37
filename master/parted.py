"""Shards in stores, as snapshots and rollbacks see them: parts in the stores, manifests here."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from common.errors import LayerwiseError, RunFailedError, UnreachableError
from common.supervision import Rounds
from common.wire.messages import Kept
from common.wire.stores import TaskKind
from master.attendance import Attendance
from master.disk.recovery import ROLLBACK
from master.disk.scheduler import SnapshotScheduler, Subject
from master.disk.shelves import OwnShelves, Shelves
from master.disk.snapshots import Snapshot
from master.run import Run
from master.stores import Stores


class PartedShelves:
    """Shards of the stores of a run.

    A snapshot is a part in each store and, once all parts are on the disks, a manifest in the master's
    directory: without it the snapshot does not exist, and its parts are removed with the next. Numbers of
    parts are never used again.

    Args:
        stores: of the run.
        attendance: of the stores.
        own: the master's directory, with the manifests.
    """

    def __init__(self, stores: Stores, attendance: Attendance, own: OwnShelves) -> None:
        self._stores = stores
        self._attendance = attendance
        self._snapshots = own.snapshots
        self._state = own.state
        self._thread = own.thread

    def versions(self) -> dict[str, int]:
        """Version of every shard, as last reported."""
        return self._stores.versions()

    async def take(self, run: dict[str, Any], *, on_demand: bool, spare: int) -> Snapshot:
        """Have every store take a part, then write the manifest, and remove what is not needed any more.

        Raises:
            UnreachableError: a store is away, or another number of replicas began meanwhile.
            RunFailedError: a part or the manifest cannot be written.
        """
        self._attendance.check_present()
        stage = self._stores.stage
        kept = await self._thread.run(self._snapshots.numbers)
        number = max(self._stores.newest_part(), *kept, 0) + 1
        parts = await self._attendance.perform(TaskKind.TAKE, number)
        if self._stores.stage != stage:
            # The values would be of the earlier stage, and the parts perhaps of the later one.
            raise UnreachableError("the number of replicas changed during the snapshot; take it again")
        versions = {name: version for part in parts for name, version in part.versions.items()}
        nbytes = sum(part.nbytes for part in parts)

        def commit() -> Snapshot:
            self._state.check_in_place()
            snapshot = self._snapshots.write_parted(number, versions, nbytes, run, on_demand=on_demand)
            self._snapshots.prune(spare)
            return snapshot

        snapshot = await self._thread.run(commit)
        await self._prune()
        return snapshot

    async def _prune(self) -> None:
        """Have the stores remove parts without a manifest; a store that is away does so later."""
        kept = await self._thread.run(self._snapshots.numbers)
        try:
            await self._attendance.perform(TaskKind.PRUNE, kept=kept)
        except (UnreachableError, RunFailedError):
            return

    async def list_all(self) -> list[Kept]:
        """Verify and list every snapshot, oldest first; damage includes a store that is away."""
        found = []
        for number in await self._thread.run(self._snapshots.numbers):
            try:
                snapshot = await self._thread.run(partial(self._snapshots.get, number))
            except RunFailedError as error:
                found.append(Kept(number, damage=str(error)))
                continue
            found.append(snapshot.summarize(await self._find_damage(number)))
        return found

    async def _find_damage(self, number: int) -> str:
        try:
            await self._attendance.perform(TaskKind.CHECK, number)
        except LayerwiseError as error:
            return str(error)
        return ""

    async def choose(self, number: int, *, anew: bool) -> tuple[Snapshot, list[str]]:
        """Open a snapshot of which every store has read its part, and has the room to put it back.

        A rollback that stands half-way is repeated with its own snapshot: the parts may need no more room.

        Raises:
            NotFoundError: there is no such snapshot.
            UnreachableError: a store is away.
            RunFailedError: a part is damaged, or a store has no room.
        """
        numbers = [number] if number else [*reversed(await self._thread.run(self._snapshots.numbers))]
        damage: list[str] = []
        for each in numbers:
            try:
                snapshot = await self._thread.run(partial(self._snapshots.get, each))
                if anew:
                    await self._attendance.perform(TaskKind.CHECK, each)
            except RunFailedError as error:
                if number:
                    raise
                damage.append(str(error))
                continue
            return snapshot, damage
        raise RunFailedError(f"{damage[0] if damage else 'there is no snapshot'}; take one first")

    async def put_back(self, snapshot: Snapshot) -> None:
        """Have every store put its shards back to its part.

        The leases have ended, durably, and no store takes a push until the next one: the list of leases that
        goes with the task is empty.

        Raises:
            UnreachableError: a store is away: the rollback stands half-way.
            RunFailedError: a store cannot put its shards back.
        """
        await self._attendance.perform(TaskKind.RESTORE, snapshot.number)


def make_scheduler(
    run: Run, attendance: Attendance | None, own: OwnShelves, subject: Subject, damage: tuple[str, ...]
) -> SnapshotScheduler:
    """Make the scheduler of a run whose shards are in stores (`attendance`), or in the master (`own`).

    Args:
        run: let nobody join, if an earlier master has left a rollback of the stores half-way.
        attendance: of the stores; None: the master keeps the shards.
        own: the master's directory.
        subject: the run, as the scheduler sees it.
        damage: findings of the recovery at the start.
    """
    shelves: Shelves = own
    unfinished = 0
    if run.stores and attendance:
        shelves = PartedShelves(run.stores, attendance, own)
        unfinished = int(own.state.read(ROLLBACK) or 0)
        run.resume_rollback(unfinished)
    newest = own.snapshots.newest()
    return SnapshotScheduler(shelves, newest, own.thread, own.state, subject, damage, unfinished)


async def repair_periodically(scheduler: SnapshotScheduler, stores: Stores, seconds: float) -> None:
    """Have the run go back to a snapshot where a store has found damage; look every `seconds`."""
    rounds = Rounds("looking for stores with damage")
    while True:
        with rounds.attempt():
            await scheduler.repair(stores.damage())
        await asyncio.sleep(seconds)
