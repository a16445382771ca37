"""Shard in a memory-mapped file: table, two alternating commit records and two buffers.

Writes to a mapped file outlive the process (kill -9), so a committed push needs no journal. Of the records
with a correct checksum the newer counts.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import RunFailedError
from common.shards.table import Table, TensorSpec
from master.disk.files import Files
from master.store.optimizers import Bytes
from master.store.shard import Record

MAGIC = b"layerwise shard 1\n"
PAGE = 4096
RECORD_BYTES = 16 * PAGE
CHECKSUM = struct.Struct("<II")  # crc32, length


class MappedPair:
    """File of a shard: preamble, record 0, record 1, buffer 0, buffer 1, with `nbytes` in a buffer."""

    def __init__(self, files: Files, path: Path, table: Table, preamble: int, nbytes: int) -> None:
        self.table = table
        self.record = Record()
        self._path = path
        self._commits = 0
        # Called after a commit with its seconds.
        self.on_commit: Callable[[float], None] = lambda _: None
        self._records = preamble
        size = _align(max(nbytes, 1))
        start = preamble + 2 * RECORD_BYTES
        if files.size(path) != start + 2 * size:
            raise RunFailedError(
                f"{path}: the size does not fit the table; restore the state directory from a copy"
            )
        self._map = files.map(path)
        whole = self._map.buffer
        self.buffers: tuple[Bytes, Bytes] = (
            whole[start : start + nbytes],
            whole[start + size : start + size + nbytes],
        )

    def commit(self, record: Record) -> None:
        """Write a record beside the present record, which counts until the new record is whole."""
        began = time.perf_counter()
        commits = self._commits + 1
        body = json.dumps({"commit": commits, **vars(record)}).encode()
        if CHECKSUM.size + len(body) > RECORD_BYTES:
            raise RunFailedError(f"{self._path}: {len(record.sequences)} slaves are too many for a record")
        start = self._records + commits % 2 * RECORD_BYTES
        self._map.write(start, CHECKSUM.pack(zlib.crc32(body), len(body)) + body)
        self.record, self._commits = record, commits
        self.on_commit(time.perf_counter() - began)

    def recover(self) -> bool:
        """Take the newest record with a correct checksum; returns False if no commit was ever made.

        Raises:
            RunFailedError: both records are torn.
        """
        records = [self._record(index) for index in (0, 1)]
        newest = max((r for r in records if r), key=lambda r: int(r["commit"]), default=None)
        if newest is None:
            # The second record is written after the first is whole: no crash of a master tears both.
            if self._map.buffer[self._records : self._records + CHECKSUM.size].any():
                raise RunFailedError(
                    f"{self._path}: both records are torn; restore the state directory from a copy"
                )
            return False
        self._commits = newest.pop("commit")
        for name in ("sequences", "progress"):
            newest[name] = {int(which): number for which, number in newest[name].items()}
        self.record = Record(**newest)
        return True

    def flush(self) -> None:
        """Bring the whole file to the disk."""
        self._map.sync()

    def _record(self, index: int) -> dict[str, Any] | None:
        start = self._records + index * RECORD_BYTES
        checksum, length = CHECKSUM.unpack_from(self._map.buffer, start)
        if length > RECORD_BYTES - CHECKSUM.size:
            return None
        body = self._map.buffer[start + CHECKSUM.size : start + CHECKSUM.size + length].tobytes()
        if not length or zlib.crc32(body) != checksum:
            return None
        record: dict[str, Any] = json.loads(body)
        return record


def create(files: Files, path: Path, name: str, table: Table, nbytes: int) -> MappedPair:
    """Create a shard's file with two buffers of `nbytes` zeros, at least the table's size.

    Raises:
        OSError: the disk has no room.
    """
    head = json.dumps({"name": name, "room": nbytes, **dataclasses.asdict(table)}).encode()
    preamble = _align(len(MAGIC) + CHECKSUM.size + len(head))
    with files.create(path) as file:
        file.write(MAGIC + CHECKSUM.pack(zlib.crc32(head), len(head)) + head)
        # Take the room now: a full disk is an error here, and a crash in a mapped write later.
        file.reserve(preamble + 2 * RECORD_BYTES + 2 * _align(max(nbytes, 1)))
    return MappedPair(files, path, table, preamble, nbytes)


def open_pair(files: Files, path: Path) -> tuple[str, MappedPair]:
    """Open a shard's file; returns the shard's name and buffers, whose record is not recovered yet.

    Raises:
        RunFailedError: the file is torn, or holds no shard.
    """
    begin = files.read(path, 0, len(MAGIC) + CHECKSUM.size)
    if not begin.startswith(MAGIC) or len(begin) != len(MAGIC) + CHECKSUM.size:
        raise RunFailedError(f"{path}: is no shard; move the file away")
    crc, length = CHECKSUM.unpack_from(begin, len(MAGIC))
    head = files.read(path, len(begin), length)
    if zlib.crc32(head) != crc:
        raise RunFailedError(f"{path}: the table is torn (checksum); restore the state directory from a copy")
    described = json.loads(head)
    preamble = _align(len(MAGIC) + CHECKSUM.size + length)
    return described["name"], MappedPair(files, path, table_of(described), preamble, described["room"])


def table_of(described: dict[str, Any]) -> Table:
    """Build a table from JSON."""
    specs = (TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in described["tensors"])
    return Table(tuple(specs), described["nbytes"])


def _align(size: int) -> int:
    return -(-size // PAGE) * PAGE
