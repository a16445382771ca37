"""Snapshots: every shard at one version each, as safetensors, with what else the run needs as JSON.

A snapshot is a folder `snapshots/<number>`: a file a shard, and `snapshot.json` with the checksum of each. It
is written beside the others, brought to the disk, and only then given its name.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import NotFoundError, RunFailedError
from common.shards.table import Table
from common.wire.messages import Kept
from master.disk import shard_file
from master.disk.mapped import table_of
from master.disk.state import boot, seal, sync, unseal, write_durably
from master.store.optimizers import Bytes
from master.store.shard import Record
from master.store.store import Store

NEWEST = 3
MANIFEST = "snapshot.json"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot by its number, its folder and what its manifest says."""

    number: int
    folder: Path
    shards: dict[str, dict[str, Any]]
    run: dict[str, Any]
    time: float
    nbytes: int

    @property
    def versions(self) -> dict[str, int]:
        """The version of every shard."""
        return {name: shard["record"]["version"] for name, shard in self.shards.items()}

    def record(self, name: str) -> Record:
        """A shard's record; it remembers no slave, since every one is fenced before the record is used."""
        record = self.shards[name]["record"]
        progress = {int(replica): batch for replica, batch in record["progress"].items()}
        return Record(**{**record, "progress": progress, "sequences": {}, "refused": [], "active": 0})

    def table(self, name: str) -> Table:
        """A shard's table."""
        return table_of(self.shards[name]["table"])

    def room(self, name: str) -> int:
        """Bytes of a shard's buffer: its tensors and what an optimizer remembers of them."""
        room: int = self.shards[name]["room"]
        return room

    def filler(self, name: str) -> Callable[[Bytes], None]:
        """What writes a shard's contents into a buffer."""
        return shard_file.filler(self._file(name), self.table(name))

    def check(self) -> None:
        """Read all of it.

        Raises:
            RunFailedError: a file is not what was written.
        """
        for name, shard in self.shards.items():
            path = self._file(name)
            try:
                with path.open("rb") as file:
                    crc = shard_file.checksum(file)
            except OSError as error:
                raise RunFailedError(f"{path}: cannot be read: {error.strerror}") from None
            if crc != shard["checksum"]:
                raise RunFailedError(f"{path}: is torn or damaged (checksum)")

    def summarize(self, damage: str = "") -> Kept:
        """As a message."""
        return Kept(self.number, self.time, self.nbytes, self.versions, damage)

    def _file(self, name: str) -> Path:
        return self.folder / shard_file.file_name(name)


class Snapshots:
    """The snapshots of one run, in a folder; the newest few are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def numbers(self) -> list[int]:
        """The snapshots that there are, oldest first."""
        if not self._folder.exists():
            return []
        return sorted(int(p.name) for p in self._folder.iterdir() if p.name.isascii() and p.name.isdecimal())

    def take(self, store: Store, run: dict[str, Any]) -> Snapshot:
        """Write a snapshot; pushes go on meanwhile.

        Args:
            store: the shards.
            run: what else the run needs, as it was before: of a layer that is done, every push is in.

        Raises:
            RunFailedError: it cannot be written; nothing of it is left.
        """
        number = max(self.numbers(), default=0) + 1
        fresh = self._folder / f".{number}.new"
        try:
            self._tidy()
            fresh.mkdir(parents=True)
            shards = {
                name: shard_file.write(store, name, fresh / shard_file.file_name(name))
                for name in store.versions()
            }
            content = {"number": number, "time": round(time.time(), 3), "boot": boot()}
            write_durably(fresh / MANIFEST, seal({**content, "shards": shards, "run": run}))
            sync(fresh)
            fresh.replace(self._folder / str(number))
            sync(self._folder)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise RunFailedError(
                f"{self._folder / str(number)}: the snapshot cannot be written: {error.strerror}; free disk "
                "space"
            ) from None
        self._prune()
        return self.get(number)

    def get(self, number: int) -> Snapshot:
        """A snapshot, its manifest checked; `check` reads the rest.

        Raises:
            NotFoundError: there is none of that number.
            RunFailedError: its manifest is damaged.
        """
        folder = self._folder / str(number)
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = ""
        except FileNotFoundError:
            if folder.exists():
                raise RunFailedError(f"{folder}: has no {MANIFEST}") from None
            raise NotFoundError(f"there is no snapshot {number}; there are {self.numbers()}") from None
        said = unseal(text, folder / MANIFEST)
        nbytes = sum(shard["nbytes"] for shard in said["shards"].values())
        return Snapshot(number, folder, said["shards"], said["run"], said["time"], nbytes)

    def newest(self) -> Snapshot | None:
        """The newest one, its shards unread; None where there is none, or its manifest is damaged."""
        try:
            return self.get(self.numbers()[-1])
        except (IndexError, RunFailedError):
            return None

    def newest_whole(self) -> tuple[Snapshot | None, list[str]]:
        """The newest snapshot of which every byte is right, and what is wrong with those after it."""
        damage = []
        for number in reversed(self.numbers()):
            try:
                snapshot = self.get(number)
                snapshot.check()
            except RunFailedError as error:
                damage.append(str(error))
                continue
            return snapshot, damage
        return None, damage

    def list_all(self) -> list[Kept]:
        """Every snapshot, read to the end."""
        found = []
        for number in self.numbers():
            try:
                snapshot = self.get(number)
            except RunFailedError as error:
                found.append(Kept(number, damage=str(error)))
                continue
            try:
                snapshot.check()
                found.append(snapshot.summarize())
            except RunFailedError as error:
                found.append(snapshot.summarize(str(error)))
        return found

    def _prune(self) -> None:
        for number in self.numbers()[:-NEWEST]:
            # Half of a folder that is removed is no snapshot.
            hidden = self._folder / f".{number}.old"
            with contextlib.suppress(OSError):
                (self._folder / str(number)).replace(hidden)
                shutil.rmtree(hidden)

    def _tidy(self) -> None:
        """What a crash has left half written or half removed."""
        for path in self._folder.glob(".*"):
            shutil.rmtree(path)
