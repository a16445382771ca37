"""Takes snapshots as time goes by and when asked, and puts the run back to one while it goes on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import LayerwiseError, RunFailedError, UnreachableError
from common.wire.messages import Kept, RollbackReply
from master.disk.recovery import ROLLBACK
from master.disk.snapshots import Snapshot, Snapshots

if TYPE_CHECKING:
    from master.service import Master

log = logging.getLogger("layerwise.master")

Result = TypeVar("Result")


class Keeper:
    """One run's snapshots, one thing at a time, on a thread of its own: the event loop goes on."""

    def __init__(self, master: Master, snapshots: Snapshots, damage: tuple[str, ...] = ()) -> None:
        self._master = master
        self._snapshots = snapshots
        self._thread = ThreadPoolExecutor(1, "snapshots")
        self._turn = asyncio.Lock()
        self._rolling: asyncio.Task[RollbackReply] | None = None
        newest = snapshots.newest()
        self.newest = newest.kept() if newest else Kept()
        # What has been found wrong since the newest was taken.
        self.trouble = damage[0] if damage else ""
        self._mark = _mark(newest.versions, newest.run) if newest else None
        # The snapshot that is being put back: nobody may join a run that is half here and half there.
        self._restoring = 0

    async def run(self, seconds: float) -> None:
        """Take a snapshot every so often, if anything has changed, until cancelled."""
        while True:
            await self.take_if_changed()
            await asyncio.sleep(seconds)

    async def take_if_changed(self) -> None:
        """Take a snapshot unless the newest is just the same; what is wrong is told, and no more."""
        run, versions = self._master.saved(), self._master.store.versions()
        if not versions or _mark(versions, run) == self._mark:
            return
        try:
            await self.take()
        except LayerwiseError as error:
            self.trouble = str(error)
            self._master.state.log({"event": "no snapshot", "why": str(error)})

    async def take(self) -> Kept:
        """Take a snapshot.

        Raises:
            RunFailedError: it cannot be written.
            UnreachableError: the run is being put back to another.
        """
        async with self._turn:
            self.check_joining()
            return (await self._take()).kept()

    async def _take(self) -> Snapshot:
        began = time.monotonic()
        run = self._master.saved()
        snapshot = await self._aside(lambda: self._snapshots.take(self._master.store, run))
        self._mark = _mark(snapshot.versions, run)
        self.newest, self.trouble = snapshot.kept(), ""
        self._master.save()
        seconds = round(time.monotonic() - began, 3)
        self._master.counters.snapshot.observe(seconds)
        said = {"number": snapshot.number, "nbytes": snapshot.nbytes, "versions": snapshot.versions}
        self._master.state.log({"event": "snapshot", **said, "seconds": seconds})
        return snapshot

    async def listed(self) -> list[Kept]:
        """Every snapshot, and what is wrong with it."""
        async with self._turn:
            kept = await self._aside(self._snapshots.listed)
        self.trouble = next((each.damage for each in kept if each.damage), self.trouble)
        return kept

    def check_joining(self) -> None:
        """Whether slaves may join.

        Raises:
            UnreachableError: not now; ask again.
        """
        if self._restoring:
            raise UnreachableError(f"the run is being put back to snapshot {self._restoring}; ask again")

    async def roll_back(self, number: int) -> RollbackReply:
        """Put every shard back to a snapshot, by default the newest whole one, and fence everyone.

        Raises:
            NotFoundError: there is no such snapshot.
            RunFailedError: it is damaged: nothing was changed. Or it cannot be put back: try again.
        """
        # Who asked may hang up; half a rollback may not be.
        self._rolling = asyncio.ensure_future(self._roll_back(number))
        return await asyncio.shield(self._rolling)

    async def _roll_back(self, number: int) -> RollbackReply:
        async with self._turn:
            snapshot = await self._aside(lambda: self._chosen(number))
            before, state = self._master.store.versions(), self._master.state
            # Should this process not come to the end of it, the next one does.
            state.write(ROLLBACK, str(snapshot.number))
            self._restoring = snapshot.number
            fenced = self._master.fence(snapshot.run, f"rolled back to snapshot {snapshot.number}")
            await self._aside(lambda: self._put_back(snapshot))
            # Newer snapshots may be there: what a power cut goes back to must be this state, not theirs.
            await self._take()
            state.discard(ROLLBACK)
            self._restoring = 0
            said = {"snapshot": snapshot.number, "before": before, "after": snapshot.versions}
            state.log({"event": "rolled back", **said, "fenced": fenced})
        return RollbackReply(snapshot.kept(), before, fenced)

    def _chosen(self, number: int) -> Snapshot:
        if number:
            snapshot = self._snapshots.get(number)
            snapshot.check()
            return snapshot
        newest, damage = self._snapshots.newest_whole()
        for line in damage:
            log.warning("%s", line)
            self.trouble = line
        if newest is None:
            raise RunFailedError(f"{damage[0] if damage else 'there is no snapshot'}; take one first")
        return newest

    def _put_back(self, snapshot: Snapshot) -> None:
        store = self._master.store
        for name in store.versions():
            if name not in snapshot.shards:
                store.discard(name)
        for name in snapshot.shards:
            fill, room = snapshot.filler(name), snapshot.room(name)
            store.put_back(name, snapshot.table(name), room, snapshot.record(name), fill)

    async def _aside(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def _mark(versions: dict[str, int], run: dict[str, Any]) -> object:
    """What is another once there is something new to keep."""
    return versions, [lease["done"] for lease in run["roster"]["leases"]]
