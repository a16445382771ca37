"""Simulated disk with a page cache: a kill leaves the cache, a power cut only what reached the disk.

After a power cut each sector of a file that was not synced is old or new, and each change of a folder that
was not synced is there or not. A process may be killed between any two operations, and within a write.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common.shards.pushes import Buffer
from master.store.optimizers import Bytes

SECTOR = 512
# Free bytes of a disk that is not full; no test fills the disk by writing.
ROOMY = 1 << 40


class Killed(BaseException):
    """End of the simulated process, at the operation under way; no code of the process may catch this."""


class File:
    """File: content in the page cache, and content on the disk."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.durable = bytes(data)

    def sync(self) -> None:
        """Bring the content to the disk."""
        self.durable = bytes(self.data)

    def after_power_cut(self, draws: random.Random) -> File:
        """Return the file with each sector as old or as new, and with the old or the new size."""
        old, new = self.durable, bytes(self.data)
        if old == new:
            return File(new)
        size = draws.choice((len(old), len(new)))
        mixed = np.zeros(max(len(old), len(new)), np.uint8)
        mixed[: len(old)] = np.frombuffer(old, np.uint8)
        latest = mixed.copy()
        latest[: len(new)] = np.frombuffer(new, np.uint8)
        changed = sorted({*(np.flatnonzero(mixed != latest) // SECTOR).tolist()})
        share = draws.choice((0.0, 0.5, 1.0))
        for sector in changed:
            if draws.random() < share:
                place = slice(sector * SECTOR, (sector + 1) * SECTOR)
                mixed[place] = latest[place]
        return File(mixed[:size].tobytes())


class Folder:
    """Folder: names in the cache, names on the disk, and the changes in between."""

    def __init__(self) -> None:
        self.entries: dict[str, File | Folder] = {}
        self._durable: dict[str, File | Folder] = {}
        self._changes: list[dict[str, File | Folder | None]] = []

    def change(self, names: dict[str, File | Folder | None]) -> None:
        """Change names together, as a rename does; None removes a name."""
        _apply(self.entries, names)
        self._changes.append(names)

    def sync(self) -> None:
        """Bring the names to the disk."""
        self._durable = dict(self.entries)
        self._changes.clear()

    def after_power_cut(self, draws: random.Random) -> Folder:
        """Return the folder with some of the changes that were not synced."""
        if draws.random() < 0.5:
            kept = self._changes[: draws.randint(0, len(self._changes))]
        else:
            kept = [change for change in self._changes if draws.random() < 0.5]
        entries = dict(self._durable)
        for names in kept:
            _apply(entries, names)
        left = Folder()
        left.entries = {name: entry.after_power_cut(draws) for name, entry in entries.items()}
        left.sync()
        return left


def _apply(entries: dict[str, File | Folder], names: dict[str, File | Folder | None]) -> None:
    for name, entry in names.items():
        if entry is None:
            entries.pop(name, None)
        else:
            entries[name] = entry


class Disk:
    """Disk of one machine.

    Attributes:
        root: the folder above all.
        boots: number of boots.
        full: whether writes fail for want of room.
        locks: holders of locks, by path.
    """

    def __init__(self, draws: random.Random) -> None:
        self.root = Folder()
        self.boots = 1
        self.full = False
        self.locks: dict[Path, SimulatedFiles] = {}
        self._draws = draws

    def cut_power(self) -> None:
        """Lose the cache; the machine boots anew."""
        self.root = self.root.after_power_cut(self._draws)
        self.boots += 1

    def find(self, path: Path) -> File | Folder:
        """Find a file or folder; `FileNotFoundError` without one."""
        entry: File | Folder = self.root
        for name in path.parts[1:]:
            if not isinstance(entry, Folder) or name not in entry.entries:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            entry = entry.entries[name]
        return entry

    def folder(self, path: Path) -> Folder:
        """Find a folder; `FileNotFoundError` without one."""
        entry = self.find(path)
        if not isinstance(entry, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return entry


class SimulatedFiles:
    """Files of one process on a simulated disk (see `master.disk.files.Files`).

    Attributes:
        kill_in: operations until the process is killed; 0: not planned.
        dead: the process was killed.
    """

    def __init__(self, disk: Disk, draws: random.Random, note: Callable[..., None]) -> None:
        self.kill_in = 0
        self.dead = False
        self._disk = disk
        self._draws = draws
        self._note = note

    def step(self, what: str, path: Path | str, *, grows: bool = False) -> None:
        """Pass a point at which the process may be killed.

        Raises:
            Killed: the process is dead, or dies here.
            OSError: the operation needs room on a full disk.
        """
        self._check_alive()
        self._note("disk", what, str(path))
        if self.kill_in:
            self.kill_in -= 1
            if not self.kill_in:
                self.dead = True
                raise Killed
        if grows and self._disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def write(self, path: Path | str, target: Bytes | bytearray, start: int, data: Buffer) -> None:
        """Write bytes; a kill within the write leaves a part."""
        self._check_alive()
        try:
            self.step("write", path)
        except Killed:
            _place(target, start, bytes(data)[: self._draws.randrange(len(data) + 1)])
            raise
        _place(target, start, bytes(data))

    @contextmanager
    def create(self, path: Path, *, private: bool = False) -> Iterator[_SimulatedWriter]:
        """Open a new file for writing."""
        self.step("create", path, grows=True)
        file, folder = File(), self._disk.folder(path.parent)
        old = folder.entries.get(path.name)
        if isinstance(old, File):
            # Truncating an old file keeps the name; the old content may come back until a sync.
            old.data = bytearray()
            file = old
        else:
            folder.change({path.name: file})
        yield _SimulatedWriter(self, path, file, self._disk)

    @contextmanager
    def overwrite(self, path: Path) -> Iterator[_SimulatedWriter]:
        """Open a file for writing over its content."""
        folder = self._disk.folder(path.parent)
        if path.name not in folder.entries:
            self.step("create", path, grows=True)
            folder.change({path.name: File()})
        yield _SimulatedWriter(self, path, self._file(path), self._disk)

    def map(self, path: Path) -> _SimulatedMapping:
        """Map a whole file."""
        self._check_alive()
        return _SimulatedMapping(self, path, self._file(path))

    def append(self, path: Path) -> _SimulatedLines:
        """Open a text file for more lines."""
        self._check_alive()
        folder = self._disk.folder(path.parent)
        if path.name not in folder.entries:
            self.step("create", path, grows=True)
            folder.change({path.name: File()})
        return _SimulatedLines(self, path, self._file(path))

    def lock(self, path: Path) -> _SimulatedLock:
        """Lock a file until `close` or the end of the process."""
        self._check_alive()
        holder = self._disk.locks.get(path)
        if holder is not None and not holder.dead:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
        self._disk.locks[path] = self
        return _SimulatedLock(self._disk, path)

    def read(self, path: Path, start: int = 0, nbytes: int = -1) -> bytes:
        """Read a part of a file."""
        self._check_alive()
        data = self._file(path).data
        return bytes(data[start:] if nbytes < 0 else data[start : start + nbytes])

    def size(self, path: Path) -> int:
        """Size of a file in bytes."""
        self._check_alive()
        return len(self._file(path).data)

    def names(self, folder: Path) -> list[str]:
        """List a folder."""
        self._check_alive()
        try:
            return sorted(self._disk.folder(folder).entries)
        except FileNotFoundError:
            return []

    def rename(self, source: Path, target: Path) -> None:
        """Rename atomically, within a folder."""
        assert source.parent == target.parent
        entry = self._disk.find(source)
        self.step("rename", target)
        self._disk.folder(source.parent).change({source.name: None, target.name: entry})

    def exchange(self, source: Path, target: Path) -> None:
        """Exchange the names of two files atomically, within a folder."""
        folder, entry = self._disk.folder(source.parent), self._disk.find(source)
        self.step("exchange", target)
        folder.change({source.name: folder.entries.get(target.name), target.name: entry})

    def remove(self, path: Path) -> None:
        """Remove a file."""
        self.step("remove", path)
        folder = self._disk.folder(path.parent)
        if path.name in folder.entries:
            folder.change({path.name: None})

    def make_folder(self, folder: Path) -> None:
        """Make a folder, durably."""
        self._check_alive()
        at = self._disk.root
        for name in folder.parts[1:]:
            if name not in at.entries:
                self.step("make folder", folder, grows=True)
                at.change({name: Folder()})
                at.sync()
            entry = at.entries[name]
            assert isinstance(entry, Folder)
            at = entry

    def make_private(self, folder: Path) -> None:
        """Do nothing: a simulated machine has one user."""

    def remove_folder(self, folder: Path) -> None:
        """Remove a folder, name by name."""
        found = self._disk.folder(folder)
        for name, entry in sorted(found.entries.items()):
            if isinstance(entry, Folder):
                self.remove_folder(folder / name)
            else:
                self.remove(folder / name)
        self.step("remove folder", folder)
        self._disk.folder(folder.parent).change({folder.name: None})

    def sync_folder(self, folder: Path) -> None:
        """Bring a folder's names to the disk."""
        self.step("sync folder", folder)
        self._disk.folder(folder).sync()

    def free(self, folder: Path) -> int:
        """Bytes free on the disk."""
        self._check_alive()
        return 0 if self._disk.full else ROOMY

    def boot(self) -> str:
        """Identity of the boot."""
        self._check_alive()
        return f"boot {self._disk.boots}"

    def _check_alive(self) -> None:
        if self.dead:
            raise Killed

    def _file(self, path: Path) -> File:
        file = self._disk.find(path)
        if not isinstance(file, File):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        return file


def _place(target: Any, start: int, data: bytes) -> None:
    if isinstance(target, bytearray):
        target[start : start + len(data)] = data
    else:
        target[start : start + len(data)] = np.frombuffer(data, np.uint8)


class _SimulatedWriter:
    def __init__(self, files: SimulatedFiles, path: Path, file: File, disk: Disk) -> None:
        self._files, self._path, self._file, self._disk = files, path, file, disk
        self._end = 0

    def write(self, data: Buffer) -> None:
        start, self._end = self._end, self._end + len(data)
        self._files.step("room", self._path, grows=self._end > len(self._file.data))
        self._files.write(self._path, self._file.data, start, data)

    def reserve(self, nbytes: int) -> None:
        self._files.step("reserve", self._path, grows=True)
        self._file.data += bytes(max(0, nbytes - len(self._file.data)))

    def sync(self) -> None:
        self._files.step("sync", self._path)
        self._file.sync()


class _SimulatedMapping:
    def __init__(self, files: SimulatedFiles, path: Path, file: File) -> None:
        self._files, self._path, self._file = files, path, file
        self.buffer: Bytes = np.frombuffer(file.data, np.uint8)

    def write(self, start: int, data: bytes) -> None:
        self._files.write(self._path, self.buffer, start, data)

    def sync(self) -> None:
        self._files.step("sync", self._path)
        self._file.sync()


class _SimulatedLines:
    def __init__(self, files: SimulatedFiles, path: Path, file: File) -> None:
        self._files, self._path, self._file = files, path, file

    def write(self, line: str) -> None:
        self._files.step("room", self._path, grows=True)
        self._files.write(self._path, self._file.data, len(self._file.data), line.encode())

    def close(self) -> None:
        return


class _SimulatedLock:
    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk, self._path = disk, path

    def in_place(self) -> bool:
        """A simulated folder never moves."""
        return True

    def close(self) -> None:
        self._disk.locks.pop(self._path, None)
