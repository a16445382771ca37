"""What survives: the state directory. Shards in memory-mapped files, the roster in a JSON file.

A shard's file holds a preamble (its table), two alternating commit records and two buffers. Writes to a
mapped file outlive the process (kill -9), so a committed push needs no journal. A record counts if its
checksum is right; the higher version of the two is the truth.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import mmap
import os
import struct
import time
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.errors import RefusedError, RunFailedError
from common.table import Table, TensorSpec
from master.store import Record, Slots
from master.updates import Bytes

_MAGIC = b"layerwise shard 1\n"
_PAGE = 4096
_RECORD_BYTES = 16 * _PAGE
_CHECKSUM = struct.Struct("<II")  # crc32, length


class MappedSlots:
    """One shard in a memory-mapped file: preamble, record 0, record 1, buffer 0, buffer 1."""

    def __init__(self, path: Path, table: Table, preamble: int) -> None:
        self.table = table
        self.record = Record()
        self._path = path
        self._commits = 0
        self._records = preamble
        size = _aligned(max(table.nbytes, 1))
        start = preamble + 2 * _RECORD_BYTES
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size != start + 2 * size:
                raise RunFailedError(
                    f"{path}: its size is not what its table says; restore the state directory from a copy"
                )
            self._map = mmap.mmap(file.fileno(), start + 2 * size)
        whole = np.frombuffer(self._map, np.uint8)
        self.buffers: tuple[Bytes, Bytes] = (
            whole[start : start + table.nbytes],
            whole[start + size : start + size + table.nbytes],
        )

    def commit(self, record: Record) -> None:
        """Make the record true: written beside the present one, which counts until this one is whole."""
        commits = self._commits + 1
        body = json.dumps({"commit": commits, **dataclasses.asdict(record)}).encode()
        if _CHECKSUM.size + len(body) > _RECORD_BYTES:
            raise RunFailedError(f"{self._path}: {len(record.sequences)} slaves are too many for its record")
        start = self._records + commits % 2 * _RECORD_BYTES
        self._map[start : start + _CHECKSUM.size + len(body)] = (
            _CHECKSUM.pack(zlib.crc32(body), len(body)) + body
        )
        self.record, self._commits = record, commits

    def recover(self) -> bool:
        """Take the newest record whose checksum is right; False where nothing was ever committed.

        Raises:
            RunFailedError: both records were written, and both are torn.
        """
        records = [self._record(index) for index in (0, 1)]
        newest = max((r for r in records if r), key=lambda r: int(r["commit"]), default=None)
        if newest is None:
            # The second one is written once the first is whole: no crash of ours tears both.
            if self._map[self._records : self._records + _CHECKSUM.size].strip(b"\0"):
                raise RunFailedError(
                    f"{self._path}: both its records are torn; restore the state directory from a copy"
                )
            return False
        self._commits = newest.pop("commit")
        newest["sequences"] = {int(who): last for who, last in newest["sequences"].items()}
        self.record = Record(**newest)
        return True

    def _record(self, index: int) -> dict[str, Any] | None:
        start = self._records + index * _RECORD_BYTES
        checksum, length = _CHECKSUM.unpack_from(self._map, start)
        if length > _RECORD_BYTES - _CHECKSUM.size:
            return None
        body = self._map[start + _CHECKSUM.size : start + _CHECKSUM.size + length]
        if not length or zlib.crc32(body) != checksum:
            return None
        record: dict[str, Any] = json.loads(body)
        return record


def _aligned(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class StateDirectory:
    """The master's files, locked against a second master.

    Raises:
        RefusedError: another master holds the directory, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards = path / "shards"
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._events = (path / "events.jsonl").open("a", buffering=1)
        except BlockingIOError:
            raise RefusedError(
                f"{path}: another master is using this state directory; stop it or give another --state-dir"
            ) from None
        except OSError as error:
            raise RefusedError(
                f"{path}: cannot be used as a state directory: {error.strerror}; give another --state-dir"
            ) from None

    def create(self, name: str, table: Table) -> Slots:
        """Room for a new shard; it exists once its first record is committed.

        Raises:
            RunFailedError: there is no room for it.
        """
        path = self._file(name)
        fresh = path.with_suffix(".new")
        head = json.dumps({"name": name, **dataclasses.asdict(table)}).encode()
        preamble = _aligned(len(_MAGIC) + _CHECKSUM.size + len(head))
        try:
            with fresh.open("wb") as file:
                file.write(_MAGIC + _CHECKSUM.pack(zlib.crc32(head), len(head)) + head)
                file.truncate(preamble)
                # Room is taken now: a full disk is an error here, not a crash of a mapped write later.
                os.posix_fallocate(
                    file.fileno(), 0, preamble + 2 * _RECORD_BYTES + 2 * _aligned(max(table.nbytes, 1))
                )
            # Under its name once it is whole: a crash leaves no shard without its table.
            fresh.replace(path)
            return MappedSlots(path, table, preamble)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise RunFailedError(
                f"{path}: no room for the shard: {error.strerror}; free disk space"
            ) from None

    def existing(self) -> dict[str, Slots]:
        """The shards that were committed before.

        Raises:
            RunFailedError: a shard's file is torn.
        """
        found: dict[str, Slots] = {}
        for path in sorted(self._shards.glob("*.shard")):
            name, table, preamble = _preamble(path)
            slots = MappedSlots(path, table, preamble)
            if slots.recover():
                found[name] = slots
        return found

    def write(self, name: str, value: dict[str, Any] | str) -> None:
        """Write a small file durably: JSON, or text as it is; there is never half of one.

        Raises:
            RunFailedError: it cannot be written; the old one is still there.
        """
        text = value if isinstance(value, str) else json.dumps(value, indent=1)
        fresh = self.path / f".{name}.new"
        try:
            with fresh.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path / name)
            self._sync_directory()
        except OSError as error:
            raise RunFailedError(
                f"{self.path / name}: cannot be written: {error.strerror}; free disk space"
            ) from None

    def _sync_directory(self) -> None:
        """A new name is durable once its directory is."""
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def read(self, name: str) -> str | None:
        """A small file's text, or None where there is none."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def log(self, event: dict[str, Any]) -> None:
        """Add a line to events.jsonl: what happened when, in seconds of the epoch."""
        line = json.dumps({"time": round(time.time(), 3), **event}) + "\n"
        # The run does not hang on its log: on a full disk a line may be lost.
        with contextlib.suppress(OSError):
            self._events.write(line)

    def close(self) -> None:
        """Let another master have the directory."""
        with contextlib.suppress(OSError):
            self._events.close()
        self._lock.close()

    def _file(self, name: str) -> Path:
        return self._shards / (name.replace("/", "-") + ".shard")


def _preamble(path: Path) -> tuple[str, Table, int]:
    with path.open("rb") as file:
        magic, checksum = file.read(len(_MAGIC)), file.read(_CHECKSUM.size)
        if magic != _MAGIC or len(checksum) != _CHECKSUM.size:
            raise RunFailedError(f"{path}: is no shard; move it away")
        crc, length = _CHECKSUM.unpack(checksum)
        head = file.read(length)
    if zlib.crc32(head) != crc:
        raise RunFailedError(f"{path}: its table is torn (checksum); restore the state directory from a copy")
    described = json.loads(head)
    specs = (TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in described["tensors"])
    return (
        described["name"],
        Table(tuple(specs), described["nbytes"]),
        _aligned(len(_MAGIC) + _CHECKSUM.size + length),
    )
