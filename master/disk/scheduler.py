"""Snapshots of a live run, at intervals and on demand, and rollbacks to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any, Protocol

from common.errors import LayerwiseError, UnreachableError
from common.observe import metrics
from common.observe.metrics import Histogram
from common.supervision import Rounds
from common.wire.messages import Kept, RollbackReply
from master.disk.recovery import ROLLBACK
from master.disk.shelves import DiskThread, Shelves
from master.disk.snapshots import Snapshot
from master.disk.state import StateDirectory

log = logging.getLogger("layerwise.master")

# Between two attempts at a rollback that stands half-way.
RETRY_SECONDS = 1.0


class Subject(Protocol):
    """Run whose snapshots are taken: leases, and the values beside the shards."""

    def dump(self) -> dict[str, Any]:
        """Values to keep beside the shards."""

    async def save(self) -> None:
        """Write the values durably."""

    def check_open(self) -> None:
        """Raise UnreachableError while a rollback is under way."""

    async def begin_rollback(self, number: int, saved: dict[str, Any]) -> int:
        """End every lease, durably, and let nobody join; returns how many leases ended."""

    def end_rollback(self) -> None:
        """Let slaves join again."""


class SnapshotScheduler:
    """Takes and lists snapshots and rolls back, one job at a time.

    Args:
        shelves: the run's shards.
        newest: the newest snapshot at the start; None without one.
        thread: for the run's directory; closed with this object.
        state: the run's directory.
        run: the run.
        damage: findings of the recovery at the start.
        unfinished: number of the snapshot of a rollback that an earlier master has left half-way; 0 without.

    Attributes:
        newest: the newest snapshot; number 0 before the first.
        trouble: newest finding of damage, or the reason for which the last snapshot failed; empty if none.
        seconds: durations of the snapshots.
        current_at: monotonic time at which a snapshot was last taken, or not needed.
    """

    def __init__(
        self,
        shelves: Shelves,
        newest: Snapshot | None,
        thread: DiskThread,
        state: StateDirectory,
        run: Subject,
        damage: tuple[str, ...] = (),
        unfinished: int = 0,
    ) -> None:
        self._shelves = shelves
        self._state = state
        self._run = run
        self._thread = thread
        self._turn = asyncio.Lock()
        self._rolling: asyncio.Task[Any] | None = None
        # Number of the snapshot of a rollback that stands half-way; 0 without such a rollback.
        self._unfinished = unfinished
        # Set when a rollback has failed half-way, for those who sleep.
        self._failed = asyncio.Event()
        self.newest = newest.summarize() if newest else Kept()
        self.trouble = damage[0] if damage else ""
        self.seconds = Histogram(metrics.SNAPSHOT_SECONDS)
        # The last damage that was looked at, and whether the attempt failed for want of a store.
        self._reported, self._repeats = "", False
        self.current_at = time.monotonic()
        self._fingerprint = _fingerprint(newest.versions, newest.run) if newest else None

    async def take_periodically(self, seconds: float) -> None:
        """Take a snapshot at intervals, after changes, until cancelled."""
        rounds = Rounds("snapshots")
        while True:
            with rounds.attempt():
                if self._unfinished:
                    self._rolling = asyncio.ensure_future(self._finish_rollback())
                    await asyncio.shield(self._rolling)
                await self.take_if_changed()
            await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not for long while a rollback stands half-way."""
        if self._unfinished:
            await asyncio.sleep(min(seconds, RETRY_SECONDS))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._failed.wait()

    async def take_if_changed(self) -> None:
        """Take a snapshot unless the newest has the present state; log a failure instead of raising."""
        versions = self._shelves.versions()
        if self._unfinished:
            return
        if not versions or _fingerprint(versions, self._run.dump()) == self._fingerprint:
            self.current_at = time.monotonic()
            return
        try:
            async with self._turn:
                self._run.check_open()
                await self._take()
        except LayerwiseError as error:
            self.trouble = str(error)
            self._state.log({"event": "no snapshot", "why": str(error)})

    async def take(self) -> Kept:
        """Take a snapshot for a user.

        Raises:
            RunFailedError: the snapshot cannot be written.
            UnreachableError: the run is being put back to a snapshot.
        """
        async with self._turn:
            self._run.check_open()
            return (await self._take(on_demand=True)).summarize()

    async def _take(self, *, on_demand: bool = False, spare: int = 0) -> Snapshot:
        began = time.monotonic()
        run = self._run.dump()
        snapshot = await self._shelves.take(run, on_demand=on_demand, spare=spare)
        self._fingerprint = _fingerprint(snapshot.versions, run)
        self.newest, self.trouble, self.current_at = snapshot.summarize(), "", time.monotonic()
        await self._run.save()
        seconds = round(time.monotonic() - began, 3)
        self.seconds.observe(seconds)
        line = {"number": snapshot.number, "nbytes": snapshot.nbytes, "versions": snapshot.versions}
        self._state.log({"event": "snapshot", **line, "seconds": seconds})
        return snapshot

    async def list_all(self) -> list[Kept]:
        """List every snapshot, oldest first, each read to the end and with the damage found.

        Raises:
            RunFailedError: the snapshots cannot be read.
        """
        async with self._turn:
            kept = await self._shelves.list_all()
        self.trouble = next((each.damage for each in kept if each.damage), self.trouble)
        return kept

    async def roll_back(self, number: int) -> RollbackReply:
        """Put every shard back to a snapshot (0: the newest whole one), and end every lease.

        Raises:
            NotFoundError: there is no such snapshot.
            RunFailedError: the snapshot is damaged, nothing was changed; or putting back failed: ask again.
        """
        # A caller that hangs up must not leave half a rollback.
        self._rolling = asyncio.ensure_future(self._roll_back(number))
        return await asyncio.shield(self._rolling)

    async def _roll_back(self, number: int) -> RollbackReply:
        async with self._turn:
            try:
                return await self._put_back(number)
            finally:
                if self._unfinished:
                    self._failed.set()

    async def _put_back(self, number: int) -> RollbackReply:
        snapshot, damage = await self._shelves.choose(number, anew=not self._unfinished)
        for found in damage:
            log.warning("%s", found)
            self.trouble = found
        before = self._shelves.versions()
        # If the process dies on the way, the next master finishes the rollback.
        await self._thread.run(lambda: self._state.write(ROLLBACK, str(snapshot.number)))
        self._unfinished = snapshot.number
        fenced = await self._run.begin_rollback(snapshot.number, snapshot.run)
        await self._shelves.put_back(snapshot)
        # Newer snapshots may exist: a power cut must go back to the present state, not to theirs.
        await self._take(spare=snapshot.number)
        await self._thread.run(lambda: self._state.discard(ROLLBACK))
        self._run.end_rollback()
        self._unfinished = 0
        self._failed.clear()
        line = {"snapshot": snapshot.number, "before": before, "after": snapshot.versions}
        self._state.log({"event": "rolled back", **line, "fenced": fenced})
        return RollbackReply(snapshot.summarize(), before, fenced)

    async def _finish_rollback(self) -> None:
        """Try a rollback that stands half-way again: the disk may have room by now."""
        async with self._turn:
            # One that was under way has come to its end meanwhile, and must not be done twice.
            if not self._unfinished:
                return
            try:
                await self._put_back(self._unfinished)
            except LayerwiseError as error:
                trouble = f"the rollback to snapshot {self._unfinished} is half-way: {error}"
                if trouble != self.trouble:
                    log.error("%s; trying again", trouble)
                self.trouble = trouble

    async def repair(self, damage: str) -> None:
        """Roll back to the newest whole snapshot, since a shard is damaged; report a failure in `trouble`.

        The same damage is looked at once, unless a store was away, or no damage has been reported since.
        """
        new = damage != self._reported
        if self._unfinished or not (new or self._repeats):
            return
        self._reported, self._repeats = damage, False
        if not damage:
            return
        if new:
            self._state.log({"event": "damaged", "why": damage})
        try:
            await self.roll_back(0)
        except UnreachableError as error:
            self.trouble, self._repeats = f"{damage}; the run cannot go back to a snapshot: {error}", True
        except LayerwiseError as error:
            self.trouble = f"{damage}, and no snapshot can replace the shard: {error}"

    def close(self) -> None:
        """End the thread."""
        self._thread.close()


def _fingerprint(versions: dict[str, int], run: dict[str, Any]) -> object:
    """Fingerprint of a run's state; changes when a new snapshot is worth taking."""
    return versions, [lease["done"] for lease in run["roster"]["leases"]]
