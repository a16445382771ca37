"""Snapshots: a version of every shard as safetensors, and the run's other values as JSON.

A snapshot is a folder `snapshots/<number>` with a file for each shard, and `snapshot.json` with checksums.
The folder is written under a hidden name, brought to the disk, and then renamed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import NotFoundError, RunFailedError
from common.shards.table import Table
from common.wire.messages import Kept
from master.disk import shard_file
from master.disk.files import DISK, Files
from master.disk.mapped import table_of
from master.disk.retention import NEWEST, Taken, choose
from master.disk.state import seal, unseal, write_durably
from master.store.optimizers import Bytes
from master.store.shard import Record
from master.store.store import Store

MANIFEST = "snapshot.json"


@dataclass(frozen=True)
class Snapshot:
    """Snapshot: number, folder, and the manifest's content; `on_demand` if a user asked for the snapshot.

    Of a run with stores, `parted` is true: the shards' files are in parts of the snapshot, one in each store,
    and `shards` has their versions alone.
    """

    number: int
    folder: Path
    shards: dict[str, dict[str, Any]]
    run: dict[str, Any]
    time: float
    nbytes: int
    files: Files = DISK
    on_demand: bool = False
    parted: bool = False

    @property
    def versions(self) -> dict[str, int]:
        """Version of every shard."""
        return {name: shard["record"]["version"] for name, shard in self.shards.items()}

    def record(self, name: str) -> Record:
        """Record of a shard, without slaves: all are fenced before the record is used."""
        record = self.shards[name]["record"]
        progress = {int(replica): batch for replica, batch in record["progress"].items()}
        turns = {int(fragment): steps for fragment, steps in record.get("turns", {}).items()}
        fresh = {"progress": progress, "sequences": {}, "refused": [], "active": 0, "turns": turns}
        return Record(**{**record, **fresh})

    def table(self, name: str) -> Table:
        """Table of a shard."""
        return table_of(self.shards[name]["table"])

    def room(self, name: str) -> int:
        """Size of a shard's buffer in bytes: tensors and moments."""
        room: int = self.shards[name]["room"]
        return room

    def filler(self, name: str) -> Callable[[Bytes], None]:
        """Make a reader of a shard into a buffer."""
        return shard_file.filler(self.files, self._file(name), self.table(name))

    def check(self) -> None:
        """Verify every file in the folder; the parts in stores are verified there.

        Raises:
            RunFailedError: a file is torn or damaged.
        """
        if self.parted:
            return
        for name, shard in self.shards.items():
            path = self._file(name)
            try:
                crc = shard_file.checksum(self.files, path)
            except OSError as error:
                raise RunFailedError(f"{path}: cannot be read: {error.strerror}") from None
            if crc != shard["checksum"]:
                raise RunFailedError(f"{path}: is torn or damaged (checksum)")

    def summarize(self, damage: str = "") -> Kept:
        """Build the message for status and lists."""
        return Kept(self.number, self.time, self.nbytes, self.versions, damage)

    def _file(self, name: str) -> Path:
        return self.folder / shard_file.file_name(name)


class Snapshots:
    """Snapshots of a run in a folder; `retention` says which are kept."""

    def __init__(self, folder: Path, files: Files = DISK) -> None:
        self._folder = folder
        self._files = files

    def numbers(self) -> list[int]:
        """Numbers of the snapshots, oldest first."""
        names = self._files.names(self._folder)
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def take(self, store: Store, run: dict[str, Any], *, on_demand: bool = False, spare: int = 0) -> Snapshot:
        """Write a snapshot while pushes go on, and remove old ones.

        Args:
            store: the shards.
            run: values beside the shards, dumped before: the shards have every push of a layer that is done.
            on_demand: whether a user asked for the snapshot.
            spare: number of an older snapshot that is still needed.

        Raises:
            RunFailedError: the snapshot cannot be written; no part is left.
        """
        snapshot = self.write(max(self.numbers(), default=0) + 1, store, run, on_demand=on_demand)
        self.prune(spare)
        return snapshot

    def write(self, number: int, store: Store, run: dict[str, Any], *, on_demand: bool = False) -> Snapshot:
        """Write a snapshot of a number that is free, while pushes go on; arguments as for `take`.

        Raises:
            RunFailedError: the snapshot cannot be written; no part is left.
        """
        return self._write(
            number,
            lambda fresh: {
                name: shard_file.write(self._files, store, name, fresh / shard_file.file_name(name))
                for name in store.versions()
            },
            {"on_demand": on_demand, "run": run},
        )

    def write_parted(
        self, number: int, versions: dict[str, int], nbytes: int, run: dict[str, Any], *, on_demand: bool
    ) -> Snapshot:
        """Write the manifest of a snapshot whose parts are in stores: the record that the snapshot exists.

        Args:
            number: of the snapshot.
            versions: of the shards in the parts.
            nbytes: of the parts.
            run: values beside the shards.
            on_demand: whether a user asked for the snapshot.

        Raises:
            RunFailedError: the manifest cannot be written.
        """
        shards = {name: {"record": {"version": version}, "nbytes": 0} for name, version in versions.items()}
        about = {"on_demand": on_demand, "run": run, "parted": True, "nbytes": nbytes}
        return self._write(number, lambda _: shards, about)

    def _write(self, number: int, fill: Callable[[Path], dict[str, Any]], about: dict[str, Any]) -> Snapshot:
        fresh = self._folder / f".{number}.new"
        try:
            self._tidy()
            self._files.make_folder(fresh)
            shards = fill(fresh)
            content = {"number": number, "time": round(time.time(), 3), "boot": self._files.boot()}
            write_durably(self._files, fresh / MANIFEST, seal({**content, **about, "shards": shards}))
            if not about.get("parted"):
                self._read_back(fresh, shards)
            self._files.sync_folder(fresh)
            self._files.rename(fresh, self._folder / str(number))
            self._files.sync_folder(self._folder)
        except (OSError, RunFailedError) as error:
            with contextlib.suppress(OSError):
                self._files.remove_folder(fresh)
            if isinstance(error, RunFailedError):
                raise
            raise RunFailedError(
                f"{self._folder / str(number)}: the snapshot cannot be written: {error.strerror}; free disk "
                "space"
            ) from None
        return self.get(number)

    def _read_back(self, folder: Path, shards: dict[str, dict[str, Any]]) -> None:
        """Verify the files of a new snapshot.

        Raises:
            RunFailedError: another content came back.
        """
        Snapshot(0, folder, shards, {}, 0.0, 0, self._files).check()

    def get(self, number: int) -> Snapshot:
        """Open a snapshot and verify the manifest; `check` verifies the rest.

        Raises:
            NotFoundError: no snapshot has the number.
            RunFailedError: the manifest is damaged.
        """
        folder = self._folder / str(number)
        try:
            text = self._files.read(folder / MANIFEST).decode("utf-8", "replace")
        except FileNotFoundError:
            if number in self.numbers():
                raise RunFailedError(f"{folder}: has no {MANIFEST}") from None
            raise NotFoundError(f"there is no snapshot {number}; there are {self.numbers()}") from None
        except OSError as error:
            raise RunFailedError(f"{folder / MANIFEST}: cannot be read: {error.strerror}") from None
        manifest = unseal(text, folder / MANIFEST)
        nbytes = manifest.get("nbytes", 0) + sum(shard["nbytes"] for shard in manifest["shards"].values())
        on_demand = manifest.get("on_demand", False)
        return Snapshot(
            number,
            folder,
            manifest["shards"],
            manifest["run"],
            manifest["time"],
            nbytes,
            self._files,
            on_demand,
            manifest.get("parted", False),
        )

    def newest(self) -> Snapshot | None:
        """Newest snapshot, with unverified shards; None without a snapshot, or with a damaged manifest."""
        try:
            return self.get(self.numbers()[-1])
        except (IndexError, RunFailedError):
            return None

    def newest_whole(self) -> tuple[Snapshot | None, list[str]]:
        """Find the newest undamaged snapshot, and describe the damage of newer snapshots."""
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
        """Verify and list every snapshot."""
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

    def prune(self, spare: int) -> None:
        """Remove the snapshots that retention gives up, but one that is still needed."""
        numbers = self.numbers()
        # A damaged snapshot goes as soon as a few are newer.
        self.keep({*choose(self._taken(numbers), time.time()), *numbers[-NEWEST:], spare})

    def keep(self, kept: set[int]) -> None:
        """Remove all snapshots but these."""
        for number in sorted({*self.numbers()} - kept):
            # Hidden first: a half-removed folder must not look like a snapshot.
            hidden = self._folder / f".{number}.old"
            with contextlib.suppress(OSError):
                self._files.rename(self._folder / str(number), hidden)
                self._files.remove_folder(hidden)

    def _taken(self, numbers: list[int]) -> Iterator[Taken]:
        """Describe the snapshots whose manifests are whole."""
        for number in numbers:
            with contextlib.suppress(RunFailedError):
                snapshot = self.get(number)
                yield Taken(number, snapshot.time, snapshot.on_demand)

    def _tidy(self) -> None:
        """Remove folders that a crash has left half written or half removed."""
        for name in self._files.names(self._folder):
            if name.startswith(".") and name.endswith((".new", ".old")):
                # What cannot be removed costs room, and no snapshot.
                with contextlib.suppress(OSError):
                    self._files.remove_folder(self._folder / name)
