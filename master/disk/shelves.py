"""Shards of a run as snapshots and rollbacks see them: here those in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from common.errors import RunFailedError
from common.wire.messages import Kept
from master.disk.snapshots import Snapshot, Snapshots
from master.disk.state import StateDirectory
from master.store.store import Store

Result = TypeVar("Result")

# Bytes that a rollback takes beside the shards: its mark, the roster, a manifest, records.
ROLLBACK_BYTES = 1 << 20


class DiskThread:
    """Thread for jobs on a state directory, one at a time: the event loop goes on.

    Args:
        path: the directory, for errors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "snapshots")

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run a job and wait for the result.

        Raises:
            RunFailedError: the disk refuses.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            raise RunFailedError(f"{self._path}: snapshots cannot be reached: {error.strerror}") from None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


class Shelves(Protocol):
    """Shards of a run, in one process or in several."""

    def versions(self) -> dict[str, int]:
        """Version of every shard."""

    async def take(self, run: dict[str, Any], *, on_demand: bool, spare: int) -> Snapshot:
        """Take a snapshot, as `Snapshots.take`.

        Raises:
            LayerwiseError: the snapshot cannot be taken; it does not exist.
        """

    async def list_all(self) -> list[Kept]:
        """Verify and list every snapshot, oldest first."""

    async def choose(self, number: int, *, anew: bool) -> tuple[Snapshot, list[str]]:
        """Open a snapshot that a rollback can put back (0: the newest), with the damage of newer ones.

        Args:
            number: of the snapshot; 0: the newest whole one.
            anew: whether nothing has been changed yet, so that a rollback without room is refused.

        Raises:
            NotFoundError: there is no such snapshot.
            RunFailedError: the snapshot is damaged, or has no room.
        """

    async def put_back(self, snapshot: Snapshot) -> None:
        """Put every shard back; again, if the process died on the way.

        Raises:
            LayerwiseError: not every shard was put back.
        """


class OwnShelves:
    """Shards of this process.

    Args:
        snapshots: on disk.
        store: the shards.
        state: the directory of both.
        thread: for the directory.

    Attributes: `snapshots`, `state` and `thread`, as given.
    """

    def __init__(self, snapshots: Snapshots, store: Store, state: StateDirectory, thread: DiskThread) -> None:
        self.snapshots = snapshots
        self._store = store
        self.state = state
        self.thread = thread

    def versions(self) -> dict[str, int]:
        """Version of every shard."""
        return self._store.versions()

    async def take(self, run: dict[str, Any], *, on_demand: bool, spare: int) -> Snapshot:
        """Take a snapshot while pushes go on.

        Raises:
            RunFailedError: the snapshot cannot be written.
        """

        def write() -> Snapshot:
            self.state.check_in_place()
            return self.snapshots.take(self._store, run, on_demand=on_demand, spare=spare)

        return await self.thread.run(write)

    async def list_all(self) -> list[Kept]:
        """Verify and list every snapshot, oldest first."""
        return await self.thread.run(self.snapshots.list_all)

    async def choose(self, number: int, *, anew: bool) -> tuple[Snapshot, list[str]]:
        """Open a snapshot that a rollback can put back, as `Shelves.choose`.

        Raises:
            NotFoundError: there is no such snapshot.
            RunFailedError: the snapshot is damaged, or has no room.
        """
        snapshot, damage = await self.thread.run(lambda: self._open(number))
        if anew:
            self.check_room(snapshot)
        return snapshot, damage

    def _open(self, number: int) -> tuple[Snapshot, list[str]]:
        if number:
            snapshot = self.snapshots.get(number)
            snapshot.check()
            return snapshot, []
        newest, damage = self.snapshots.newest_whole()
        if newest is None:
            raise RunFailedError(f"{damage[0] if damage else 'there is no snapshot'}; take one first")
        return newest, damage

    def check_room(self, snapshot: Snapshot) -> None:
        """Refuse a rollback that the disk has no room for, before anything is changed.

        Raises:
            RunFailedError: the disk has no room.
        """
        versions = self._store.versions()
        missing = sum(2 * snapshot.room(name) for name in snapshot.shards if name not in versions)
        needed, free = snapshot.nbytes + missing + ROLLBACK_BYTES, self.state.files.free(self.state.path)
        if free < needed:
            raise RunFailedError(
                f"{self.state.path}: a rollback to snapshot {snapshot.number} takes {needed:,} bytes, and "
                f"{free:,} are free; free disk space"
            )

    async def put_back(self, snapshot: Snapshot) -> None:
        """Put every shard back, and remove the others.

        Raises:
            RunFailedError: a shard could not be put back.
        """
        await self.thread.run(lambda: self.restore(snapshot))

    def restore(self, snapshot: Snapshot) -> None:
        """Put every shard back, and remove the others; blocks."""
        for name in self._store.versions():
            if name not in snapshot.shards:
                self._store.discard(name)
        for name in snapshot.shards:
            fill, room = snapshot.filler(name), snapshot.room(name)
            self._store.put_back(name, snapshot.table(name), room, snapshot.record(name), fill)
