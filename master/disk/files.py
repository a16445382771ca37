"""File operations of the master's disk code, on the real file system; tests give a simulated one.

Every access of `master.disk` to files goes through `Files`: a test can lose, tear or refuse each write.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from common.shards.pushes import Buffer
from master.store.optimizers import Bytes

# Of the system call renameat2: the working directory, and the flag for an exchange.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Writer(Protocol):
    """New file, open for writing from the start to the end."""

    def write(self, data: Buffer) -> None:
        """Append bytes."""

    def reserve(self, nbytes: int) -> None:
        """Give the file a size of `nbytes`, with room on the disk; the rest is zeros."""

    def sync(self) -> None:
        """Bring the content to the disk."""


class Mapping(Protocol):
    """File in memory, shared with the disk: writes outlive the process, and `sync` makes them durable.

    Attributes:
        buffer: the whole file.
    """

    buffer: Bytes

    def write(self, start: int, data: bytes) -> None:
        """Write bytes at an offset."""

    def sync(self) -> None:
        """Bring the content to the disk."""


class Lines(Protocol):
    """Text file that grows by lines."""

    def write(self, line: str) -> object:
        """Append a line."""

    def close(self) -> None:
        """Close the file."""


class Held(Protocol):
    """Lock on a file."""

    def in_place(self) -> bool:
        """Whether the file's path still leads to the locked file."""

    def close(self) -> None:
        """Give the lock up."""


class Files(Protocol):
    """Operations on files and folders; failures are `OSError`."""

    def create(self, path: Path, *, private: bool = False) -> AbstractContextManager[Writer]:
        """Open a new file, which replaces an old file of the name, for writing.

        Args:
            path: of the file.
            private: whether the owner alone may read the file.
        """

    def overwrite(self, path: Path) -> AbstractContextManager[Writer]:
        """Open a file, which is made if missing, for writing over its content; the size never falls."""

    def map(self, path: Path) -> Mapping:
        """Map a whole file that is not empty."""

    def append(self, path: Path) -> Lines:
        """Open a text file for more lines."""

    def lock(self, path: Path) -> Held:
        """Lock a file against other processes; `BlockingIOError` if another holds the lock."""

    def read(self, path: Path, start: int = 0, nbytes: int = -1) -> bytes:
        """Read `nbytes` from an offset, fewer at the end of the file; all with -1."""

    def size(self, path: Path) -> int:
        """Size of a file in bytes."""

    def names(self, folder: Path) -> list[str]:
        """Sorted names in a folder; empty without the folder."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder, over an old file."""

    def exchange(self, source: Path, target: Path) -> None:
        """Have two files exchange names; rename `source` where the system cannot, or without a `target`."""

    def remove(self, path: Path) -> None:
        """Remove a file, if the file exists."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder and the folders above, if missing, and bring their names to the disk."""

    def make_private(self, folder: Path) -> None:
        """Keep others out of a folder; `PermissionError` if the folder belongs to another user."""

    def remove_folder(self, folder: Path) -> None:
        """Remove a folder with its content."""

    def sync_folder(self, folder: Path) -> None:
        """Bring a folder's names to the disk."""

    def free(self, folder: Path) -> int:
        """Bytes free for this process on the disk of a folder."""

    def boot(self) -> str:
        """Identity of the machine's present boot; empty where the system has none."""


class DiskFiles:
    """Files of the operating system."""

    @contextmanager
    def create(self, path: Path, *, private: bool = False) -> Iterator[Writer]:
        """Open a new file for writing."""
        if private:
            path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | (os.O_EXCL if private else 0)
        with open(os.open(path, flags, 0o600 if private else 0o666), "wb") as file:
            yield _DiskWriter(file)

    @contextmanager
    def overwrite(self, path: Path) -> Iterator[Writer]:
        """Open a file for writing over its content."""
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
            yield _DiskWriter(file)

    def map(self, path: Path) -> Mapping:
        """Map a whole file."""
        return _DiskMapping(path)

    def append(self, path: Path) -> Lines:
        """Open a text file for more lines, each written at once."""
        return path.open("a", buffering=1, encoding="utf-8")

    def lock(self, path: Path) -> Held:
        """Lock a file until `close`, or the end of the process."""
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        return _DiskLock(path, file)

    def read(self, path: Path, start: int = 0, nbytes: int = -1) -> bytes:
        """Read a part of a file."""
        with path.open("rb") as file:
            file.seek(start)
            return file.read(nbytes)

    def size(self, path: Path) -> int:
        """Size of a file in bytes."""
        return path.stat().st_size

    def names(self, folder: Path) -> list[str]:
        """List a folder."""
        return sorted(os.listdir(folder)) if folder.exists() else []

    def rename(self, source: Path, target: Path) -> None:
        """Rename atomically."""
        source.replace(target)

    def exchange(self, source: Path, target: Path) -> None:
        """Exchange the names of two files atomically, or rename atomically."""
        if not _exchange(source, target):
            source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def make_folder(self, folder: Path) -> None:
        """Make a folder, the uppermost missing folder first."""
        if not folder.is_dir():
            self.make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            self.sync_folder(folder.parent)

    def make_private(self, folder: Path) -> None:
        """Set the mode of an own folder to 0700."""
        found = folder.stat()
        if found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)

    def remove_folder(self, folder: Path) -> None:
        """Remove a folder with its content."""
        shutil.rmtree(folder)

    def sync_folder(self, folder: Path) -> None:
        """Bring a folder's names to the disk."""
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def free(self, folder: Path) -> int:
        """Bytes free for this process."""
        return shutil.disk_usage(folder).free

    def boot(self) -> str:
        """Identity of the boot, from the kernel."""
        with contextlib.suppress(OSError):
            return _BOOT.read_text(encoding="ascii").strip()
        return ""


def _exchange(source: Path, target: Path) -> bool:
    """Exchange the names of two files; False without a target, or on a system or disk that cannot."""
    try:
        exchange = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    names = os.fsencode(source), os.fsencode(target)
    return bool(exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


class _DiskLock:
    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path, self._file = path, file

    def in_place(self) -> bool:
        """Compare the locked file with the file at the path."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return False

    def close(self) -> None:
        """Close the file, which ends the lock."""
        self._file.close()


class _DiskWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: Buffer) -> None:
        self._file.write(data)

    def reserve(self, nbytes: int) -> None:
        self._file.flush()
        os.posix_fallocate(self._file.fileno(), 0, nbytes)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


class _DiskMapping:
    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.buffer: Bytes = np.frombuffer(self._map, np.uint8)

    def write(self, start: int, data: bytes) -> None:
        self._map[start : start + len(data)] = data

    def sync(self) -> None:
        self._map.flush()


DISK = DiskFiles()
