"""State directory of a master: shards in memory-mapped files, the run's other values in small files."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import strict_json
from common.errors import NoRoomError, RefusedError, RunFailedError
from common.observe import metrics
from common.observe.metrics import Histogram
from common.shards.table import Table
from master.disk import mapped
from master.disk.events import EventLog
from master.disk.files import DISK, Files
from master.disk.mapped import MappedPair
from master.disk.room import write_in_room
from master.store.optimizers import Bytes
from master.store.shard import BufferPair, Record


class StateDirectory:
    """Files of a master, locked against a second master.

    Attributes:
        writer: thread for small files and events, in order: the event loop waits for no disk.
        recent: newest events, oldest first.

    Raises:
        RefusedError: another master holds the directory, or the directory cannot be written.
    """

    def __init__(self, path: Path, files: Files = DISK) -> None:
        self.path = path
        self.files = files
        self.journal = Histogram(metrics.JOURNAL_SECONDS)
        # Open shards by name, for the scrub.
        self.pairs: dict[str, MappedPair] = {}
        self._shards = path / "shards"
        try:
            files.make_folder(path)
            files.make_private(path)
            files.make_folder(self._shards)
            self._lock = files.lock(path / "lock")
            self.writer: Executor = ThreadPoolExecutor(1, "writer")
            self._events = EventLog(path, files, self.writer)
            self.recent = self._events.recent
        except BlockingIOError:
            raise RefusedError(
                f"{path}: another master is using this state directory; stop it or give another --state-dir"
            ) from None
        except OSError as error:
            raise RefusedError(
                f"{path}: cannot be used as a state directory: {error.strerror}; give another --state-dir"
            ) from None

    @property
    def other_boot(self) -> bool:
        """Whether the machine was restarted since a master last used the directory.

        The last writes into mapped files may then never have reached the disk. The boot is kept in a file
        that is durable before the first commit, and not in the records: the newer record may be lost, and the
        older record would vouch for pages that were written since.
        """
        try:
            return self.read("boot") not in (None, "", self.files.boot())
        except RunFailedError:
            # Nothing vouches for the mapped files.
            return True

    def check_in_place(self) -> None:
        """Check that the path still leads to the locked directory.

        A write by the path would otherwise make another directory, or write into the one of another master.

        Raises:
            NoRoomError: the directory was moved, removed or replaced.
        """
        if not self._lock.in_place():
            raise NoRoomError(
                f"{self.path}: the state directory was moved, removed or replaced, and nothing is saved; "
                "put the directory back"
            )

    def note_boot(self) -> None:
        """Mark the directory as written by the present boot."""
        self.write("boot", self.files.boot())

    def create(self, name: str, table: Table, nbytes: int | None = None) -> BufferPair:
        """Create the file of a new shard; the shard exists from the first commit on.

        Args:
            name: of the shard.
            table: of the tensors.
            nbytes: size of a buffer, tensors and moments; by default the table's.

        Raises:
            NoRoomError: the disk has no room.
        """
        return self._place(name, table, nbytes, lambda _: None)

    def put_back(
        self,
        name: str,
        table: Table,
        record: Record,
        fill: Callable[[Bytes], None],
        nbytes: int | None = None,
    ) -> None:
        """Replace a shard's file by a file with a record, and a buffer that `fill` writes.

        The new file is whole, and on the disk, before the old file goes.

        Raises:
            NoRoomError: the disk has no room.
        """

        def write(pair: MappedPair) -> None:
            fill(pair.buffers[0])
            pair.commit(dataclasses.replace(record, active=0))
            pair.flush()

        self._place(name, table, nbytes, write)
        self.files.sync_folder(self._shards)

    def _place(
        self, name: str, table: Table, nbytes: int | None, write: Callable[[MappedPair], None]
    ) -> MappedPair:
        self.check_in_place()
        path = self.shard_path(name)
        fresh = path.with_suffix(".new")
        try:
            pair = mapped.create(self.files, fresh, name, table, table.nbytes if nbytes is None else nbytes)
            pair.on_commit = self.journal.observe
            write(pair)
            # The whole file gets the name: a crash leaves no shard without a table.
            self.files.rename(fresh, path)
            pair.path = path
        except OSError as error:
            self.files.remove(fresh)
            raise NoRoomError(f"{path}: no room for the shard: {error.strerror}; free disk space") from None
        self.pairs[name] = pair
        return pair

    def vouch(self) -> None:
        """Bring every shard to the disk, and have the files need no boot that vouches for them.

        For the end of a process that writes no more: the machine may be switched off next.
        """
        for pair in self.pairs.values():
            pair.flush()
        self.files.sync_folder(self._shards)
        self.write("boot", "")

    def remove(self, name: str) -> None:
        """Remove a shard's file."""
        self.pairs.pop(name, None)
        self.files.remove(self.shard_path(name))
        self.files.sync_folder(self._shards)

    def load(self) -> dict[str, BufferPair]:
        """Open the shards of earlier masters.

        Raises:
            RunFailedError: a shard's file is torn.
        """
        found, damaged = self.survey()
        for why in damaged.values():
            raise RunFailedError(why)
        return found

    def survey(self) -> tuple[dict[str, BufferPair], dict[str, str]]:
        """Open the whole shards of earlier masters; describe the damage of the rest, by shard."""
        found: dict[str, BufferPair] = {}
        damaged: dict[str, str] = {}
        for path in [self._shards / name for name in self.files.names(self._shards)]:
            if path.suffix != ".shard":
                continue
            try:
                name, pair = mapped.open_pair(self.files, path)
                pair.on_commit = self.journal.observe
                if pair.recover():
                    found[name] = self.pairs[name] = pair
            except OSError as error:
                damaged[path.stem.replace("-", "/", 1)] = f"{path}: cannot be read: {error.strerror}"
            except RunFailedError as error:
                damaged[path.stem.replace("-", "/", 1)] = str(error)
        return found, damaged

    def write(self, name: str, text: str, *, private: bool = False) -> None:
        """Write a small file, durably and atomically; needs no room for the content that is there already.

        Args:
            name: of the file.
            text: content.
            private: whether the owner alone may read the file.

        Raises:
            NoRoomError: the file cannot be written; the old file is still there.
        """
        fresh = self.path / f".{name}.new"
        with self._needs_room(name):
            if not self._holds(name, text):
                write_durably(self.files, fresh, text, private=private)
                self.files.rename(fresh, self.path / name)
            self.files.sync_folder(self.path)

    def _holds(self, name: str, text: str) -> bool:
        try:
            return self.read(name) == text
        except RunFailedError:
            return False

    def write_in_room(self, name: str, text: str) -> None:
        """Write a small file as `write` does, in room of its own, also while the disk is full.

        Raises:
            NoRoomError: the file cannot be written; the old file is still there.
        """
        with self._needs_room(name):
            write_in_room(self.files, self.path / name, text)

    @contextlib.contextmanager
    def _needs_room(self, name: str) -> Iterator[None]:
        self.check_in_place()
        try:
            yield
        except OSError as error:
            raise NoRoomError(
                f"{self.path / name}: cannot be written: {error.strerror}; free disk space"
            ) from None

    def read(self, name: str) -> str | None:
        """Read a small file; None if the file does not exist.

        Raises:
            RunFailedError: the file cannot be read, or is no UTF-8.
        """
        path = self.path / name
        try:
            return self.files.read(path).decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            reason = "is no UTF-8"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        raise RunFailedError(f"{path}: {reason}; restore the file from a copy")

    def discard(self, name: str) -> None:
        """Remove a small file, durably."""
        self.files.remove(self.path / name)
        self.files.sync_folder(self.path)

    def log(self, event: dict[str, Any]) -> None:
        """Add an event to the log, with the time in seconds of the epoch."""
        self._events.add(event)

    def close(self) -> None:
        """Write what waits, and unlock the directory for the next master."""
        self.writer.shutdown()
        self._events.close()
        self._lock.close()

    def shard_path(self, name: str) -> Path:
        """Path of a shard's file."""
        return self._shards / (name.replace("/", "-") + ".shard")


def write_durably(files: Files, path: Path, text: str, *, private: bool = False) -> None:
    """Write a small file, bring the content to the disk, and read the file back."""
    with files.create(path, private=private) as file:
        file.write(text.encode())
        file.sync()
    if files.read(path) != text.encode():
        raise OSError(errno.EIO, "another content came back", str(path))


def seal(value: dict[str, Any]) -> str:
    """Encode a value as JSON with a checksum."""
    text = strict_json.encode(value)
    return f'{{"checksum": {_checksum(text)}, {text[1:]}' if value else f'{{"checksum": {_checksum(text)}}}'


def unseal(text: str, path: Path) -> dict[str, Any]:
    """Decode and verify JSON from `seal`.

    Raises:
        RunFailedError: the text is torn or was changed.
    """
    try:
        value: dict[str, Any] = json.loads(text)
        if value.pop("checksum") == _checksum(strict_json.encode(value)):
            return value
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise RunFailedError(f"{path}: is torn or was changed (checksum); restore the file from a copy")


def _checksum(text: str) -> int:
    # Whatever the order of keys in a text; in JSON they are texts themselves.
    return zlib.crc32(strict_json.encode(json.loads(text), sort_keys=True).encode())
