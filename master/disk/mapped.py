"""One shard in a memory-mapped file: its table, two alternating commit records and two buffers.

Writes to a mapped file outlive the process (kill -9), so a committed push needs no journal. A record counts
if its checksum is right; the newer of the two is the truth.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import RunFailedError
from common.shards.table import Table, TensorSpec
from master.store.optimizers import Bytes
from master.store.shard import Record

MAGIC = b"layerwise shard 1\n"
PAGE = 4096
RECORD_BYTES = 16 * PAGE
CHECKSUM = struct.Struct("<II")  # crc32, length


class MappedSlots:
    """A shard's file: preamble, record 0, record 1, buffer 0, buffer 1, of `nbytes` each."""

    def __init__(self, path: Path, table: Table, preamble: int, nbytes: int) -> None:
        self.table = table
        self.record = Record()
        self._path = path
        self._commits = 0
        # Told how many seconds each commit took.
        self.took: Callable[[float], None] = lambda _: None
        self._records = preamble
        size = _aligned(max(nbytes, 1))
        start = preamble + 2 * RECORD_BYTES
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size != start + 2 * size:
                raise RunFailedError(
                    f"{path}: its size is not what its table says; restore the state directory from a copy"
                )
            self._map = mmap.mmap(file.fileno(), start + 2 * size)
        whole = np.frombuffer(self._map, np.uint8)
        self.buffers: tuple[Bytes, Bytes] = (
            whole[start : start + nbytes],
            whole[start + size : start + size + nbytes],
        )

    def commit(self, record: Record) -> None:
        """Make the record true: written beside the present one, which counts until this one is whole."""
        began = time.perf_counter()
        commits = self._commits + 1
        body = json.dumps({"commit": commits, **vars(record)}).encode()
        if CHECKSUM.size + len(body) > RECORD_BYTES:
            raise RunFailedError(f"{self._path}: {len(record.sequences)} slaves are too many for its record")
        start = self._records + commits % 2 * RECORD_BYTES
        self._map[start : start + CHECKSUM.size + len(body)] = (
            CHECKSUM.pack(zlib.crc32(body), len(body)) + body
        )
        self.record, self._commits = record, commits
        self.took(time.perf_counter() - began)

    def recover(self) -> bool:
        """Take the newest record whose checksum is right; False where nothing was ever committed.

        Raises:
            RunFailedError: both records were written, and both are torn.
        """
        records = [self._record(index) for index in (0, 1)]
        newest = max((r for r in records if r), key=lambda r: int(r["commit"]), default=None)
        if newest is None:
            # The second one is written once the first is whole: no crash of ours tears both.
            if self._map[self._records : self._records + CHECKSUM.size].strip(b"\0"):
                raise RunFailedError(
                    f"{self._path}: both its records are torn; restore the state directory from a copy"
                )
            return False
        self._commits = newest.pop("commit")
        for name in ("sequences", "progress"):
            newest[name] = {int(which): number for which, number in newest[name].items()}
        self.record = Record(**newest)
        return True

    def flush(self) -> None:
        """Return once all of it is on the disk."""
        self._map.flush()

    def _record(self, index: int) -> dict[str, Any] | None:
        start = self._records + index * RECORD_BYTES
        checksum, length = CHECKSUM.unpack_from(self._map, start)
        if length > RECORD_BYTES - CHECKSUM.size:
            return None
        body = self._map[start + CHECKSUM.size : start + CHECKSUM.size + length]
        if not length or zlib.crc32(body) != checksum:
            return None
        record: dict[str, Any] = json.loads(body)
        return record


def create(path: Path, name: str, table: Table, nbytes: int) -> MappedSlots:
    """A new file for a shard: two buffers of `nbytes` zeros, at least the table's.

    Raises:
        OSError: there is no room for it.
    """
    head = json.dumps({"name": name, "room": nbytes, **dataclasses.asdict(table)}).encode()
    preamble = _aligned(len(MAGIC) + CHECKSUM.size + len(head))
    with path.open("wb") as file:
        file.write(MAGIC + CHECKSUM.pack(zlib.crc32(head), len(head)) + head)
        file.truncate(preamble)
        # Room is taken now: a full disk is an error here, not a crash of a mapped write later.
        os.posix_fallocate(file.fileno(), 0, preamble + 2 * RECORD_BYTES + 2 * _aligned(max(nbytes, 1)))
    return MappedSlots(path, table, preamble, nbytes)


def opened(path: Path) -> tuple[str, MappedSlots]:
    """The shard of a file, by its name; nothing of it is recovered yet.

    Raises:
        RunFailedError: it is torn, or no shard's file.
    """
    with path.open("rb") as file:
        magic, checksum = file.read(len(MAGIC)), file.read(CHECKSUM.size)
        if magic != MAGIC or len(checksum) != CHECKSUM.size:
            raise RunFailedError(f"{path}: is no shard; move it away")
        crc, length = CHECKSUM.unpack(checksum)
        head = file.read(length)
    if zlib.crc32(head) != crc:
        raise RunFailedError(f"{path}: its table is torn (checksum); restore the state directory from a copy")
    described = json.loads(head)
    preamble = _aligned(len(MAGIC) + CHECKSUM.size + length)
    return described["name"], MappedSlots(path, table_of(described), preamble, described["room"])


def table_of(described: dict[str, Any]) -> Table:
    """A table from what JSON keeps of it."""
    specs = (TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in described["tensors"])
    return Table(tuple(specs), described["nbytes"])


def _aligned(size: int) -> int:
    return -(-size // PAGE) * PAGE
