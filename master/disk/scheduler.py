"""Snapshots of a live run, at intervals and on demand, and rollbacks to them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from common.errors import LayerwiseError, RunFailedError
from common.observe import metrics
from common.observe.metrics import Histogram
from common.supervision import Rounds
from common.wire.messages import Kept, RollbackReply
from master.disk.recovery import ROLLBACK
from master.disk.snapshots import Snapshot, Snapshots
from master.disk.state import StateDirectory
from master.store.store import Store

log = logging.getLogger("layerwise.master")

Result = TypeVar("Result")

# Bytes that a rollback takes beside the shards: its mark, the roster, a manifest, records.
ROLLBACK_BYTES = 1 << 20


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
    """Takes and lists snapshots and rolls back, one job at a time, on a thread: the event loop goes on.

    Args:
        snapshots: snapshots on disk.
        store: the run's shards.
        state: the run's directory.
        run: the run.
        damage: findings of the recovery at the start.

    Attributes:
        newest: the newest snapshot; number 0 before the first.
        trouble: newest finding of damage, or the reason for which the last snapshot failed; empty if none.
        seconds: durations of the snapshots.
        current_at: monotonic time at which a snapshot was last taken, or not needed.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        store: Store,
        state: StateDirectory,
        run: Subject,
        damage: tuple[str, ...] = (),
    ) -> None:
        self._snapshots = snapshots
        self._store = store
        self._state = state
        self._run = run
        self._thread = ThreadPoolExecutor(1, "snapshots")
        self._turn = asyncio.Lock()
        self._rolling: asyncio.Task[RollbackReply] | None = None
        # Number of the snapshot of a rollback that stands half-way; 0 without such a rollback.
        self._unfinished = 0
        newest = snapshots.newest()
        self.newest = newest.summarize() if newest else Kept()
        self.trouble = damage[0] if damage else ""
        self.seconds = Histogram(metrics.SNAPSHOT_SECONDS)
        self._reported = ""
        self.current_at = time.monotonic()
        self._fingerprint = _fingerprint(newest.versions, newest.run) if newest else None

    async def take_periodically(self, seconds: float) -> None:
        """Take a snapshot at intervals, after changes, until cancelled."""
        rounds = Rounds("snapshots")
        while True:
            with rounds.attempt():
                await self._finish_rollback()
                await self.take_if_changed()
            await asyncio.sleep(seconds)

    async def take_if_changed(self) -> None:
        """Take a snapshot unless the newest has the present state; log a failure instead of raising."""
        versions = self._store.versions()
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

        def write() -> Snapshot:
            self._state.check_in_place()
            return self._snapshots.take(self._store, run, on_demand=on_demand, spare=spare)

        snapshot = await self._on_thread(write)
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
            kept = await self._on_thread(self._snapshots.list_all)
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
            snapshot = await self._on_thread(lambda: self._choose(number))
            if not self._unfinished:
                self._check_room(snapshot)
            before = self._store.versions()
            # If the process dies on the way, the next master finishes the rollback.
            await self._on_thread(lambda: self._state.write(ROLLBACK, str(snapshot.number)))
            self._unfinished = snapshot.number
            fenced = await self._run.begin_rollback(snapshot.number, snapshot.run)
            await self._on_thread(lambda: self._put_back(snapshot))
            # Newer snapshots may exist: a power cut must go back to the present state, not to theirs.
            await self._take(spare=snapshot.number)
            await self._on_thread(lambda: self._state.discard(ROLLBACK))
            self._run.end_rollback()
            self._unfinished = 0
            line = {"snapshot": snapshot.number, "before": before, "after": snapshot.versions}
            self._state.log({"event": "rolled back", **line, "fenced": fenced})
        return RollbackReply(snapshot.summarize(), before, fenced)

    async def _finish_rollback(self) -> None:
        """Try a rollback that stands half-way again: the disk may have room by now."""
        if self._unfinished:
            try:
                await self.roll_back(self._unfinished)
            except LayerwiseError as error:
                self.trouble = f"the rollback to snapshot {self._unfinished} is half-way: {error}"
                log.error("%s; trying again", self.trouble)

    async def repair(self, damage: str) -> None:
        """Roll back to the newest whole snapshot, since a shard is damaged; report a failure in `trouble`."""
        if damage == self._reported:
            return
        self._reported = damage
        self._state.log({"event": "damaged", "why": damage})
        try:
            await self.roll_back(0)
        except LayerwiseError as error:
            self.trouble = f"{damage}, and no snapshot can replace the shard: {error}"

    def _check_room(self, snapshot: Snapshot) -> None:
        """Refuse a rollback that the disk has no room for, before anything is changed.

        Raises:
            RunFailedError: the disk has no room.
        """
        versions = self._store.versions()
        missing = sum(2 * snapshot.room(name) for name in snapshot.shards if name not in versions)
        needed, free = snapshot.nbytes + missing + ROLLBACK_BYTES, self._state.files.free(self._state.path)
        if free < needed:
            raise RunFailedError(
                f"{self._state.path}: a rollback to snapshot {snapshot.number} takes {needed:,} bytes, and "
                f"{free:,} are free; free disk space"
            )

    def _choose(self, number: int) -> Snapshot:
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
        for name in self._store.versions():
            if name not in snapshot.shards:
                self._store.discard(name)
        for name in snapshot.shards:
            fill, room = snapshot.filler(name), snapshot.room(name)
            self._store.put_back(name, snapshot.table(name), room, snapshot.record(name), fill)

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            raise RunFailedError(
                f"{self._state.path}: snapshots cannot be reached: {error.strerror}"
            ) from None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def _fingerprint(versions: dict[str, int], run: dict[str, Any]) -> object:
    """Fingerprint of a run's state; changes when a new snapshot is worth taking."""
    return versions, [lease["done"] for lease in run["roster"]["leases"]]
