"""Shard in a memory-mapped file: table, two alternating commit records and two buffers.

Writes to a mapped file outlive the process (kill -9), so a committed push needs no journal. Of the records
with a correct checksum the newer counts. The record carries a checksum of each piece of the active buffer:
small buffers are summed at the commit, large buffers by `scrub`, once they rest.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import strict_json
from common.errors import MalformedError, RunFailedError
from common.shards.table import Table, TensorSpec
from common.wire.ranges import COUNT, PLACE, SMALL, Range
from common.wire.saved import restore_map, restore_number
from master.disk.files import Files
from master.store.optimizers import Bytes
from master.store.shard import Record

MAGIC = b"layerwise shard 1\n"
PAGE = 4096
RECORD_BYTES = 16 * PAGE
CHECKSUM = struct.Struct("<II")  # crc32, length
# Pieces under one checksum each: of PIECE_BYTES, or larger ones, MOST_PIECES at the most.
PIECE_BYTES, MOST_PIECES = 1 << 20, 1024
# Largest buffer that is summed at each commit: about 40 us.
AT_ONCE_BYTES = 64 << 10


class MappedPair:
    """File of a shard: preamble, record 0, record 1, buffer 0, buffer 1, with `nbytes` in a buffer."""

    def __init__(self, files: Files, path: Path, table: Table, preamble: int, nbytes: int) -> None:
        self.table = table
        self.record = Record()
        self.path = path
        # Checksums of the active buffer's pieces; empty while unknown.
        self.checksums: list[int] = []
        self._commits = 0
        # Number of times that another content became active.
        self._changes = 0
        self._committing = threading.Lock()
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
        """Write a record beside the present record, which counts until the new record is whole.

        Raises:
            RunFailedError: the record has no room for its slaves.
        """
        began = time.perf_counter()
        with self._committing:
            if self._commits and (record.version, record.active) == (self.record.version, self.record.active):
                self._write(record, self.checksums)
            else:
                small = self.buffers[record.active].nbytes <= AT_ONCE_BYTES
                self._write(record, [*self._sum(record.active)] if small else [])
                self._changes += 1
        self.on_commit(time.perf_counter() - began)

    def _write(self, record: Record, checksums: list[int]) -> None:
        commits = self._commits + 1
        body = strict_json.encode({"commit": commits, **vars(record), "checksums": checksums}).encode()
        if CHECKSUM.size + len(body) > RECORD_BYTES:
            raise RunFailedError(f"{self.path}: {len(record.sequences)} slaves are too many for a record")
        start = self._records + commits % 2 * RECORD_BYTES
        self._map.write(start, CHECKSUM.pack(zlib.crc32(body), len(body)) + body)
        self.record, self.checksums, self._commits = record, checksums, commits

    def scrub(self, pause: Callable[[], None] = lambda: None) -> str:
        """Compare the active buffer with its checksums, or record them where none are known yet.

        Pushes go on meanwhile: once another content is active, nothing is concluded.

        Args:
            pause: called after each piece.

        Returns:
            A description of the damage; empty without damage.

        Raises:
            RunFailedError: the record has no room for the checksums.
        """
        with self._committing:
            record, known, changes = self.record, self.checksums, self._changes
        found = []
        for checksum in self._sum(record.active):
            found.append(checksum)
            pause()
            if self._changes != changes:
                return ""
        with self._committing:
            if self._changes != changes or not self._commits:
                return ""
            if not known:
                if found:
                    self._write(self.record, found)
                return ""
        return self._describe(known, found)

    def find_damage(self) -> str:
        """Describe how the active buffer differs from its checksums; empty without damage or checksums."""
        return self.scrub() if self.checksums else ""

    def _describe(self, known: list[int], found: list[int]) -> str:
        for number, (one, other) in enumerate(zip(known, found, strict=True)):
            if one != other:
                start, version = number * self._piece_bytes, self.record.version
                stop = min(start + self._piece_bytes, self.buffers[0].nbytes)
                return f"{self.path}: bytes {start} to {stop} of version {version} are damaged (checksum)"
        return ""

    @property
    def _piece_bytes(self) -> int:
        return max(PIECE_BYTES, _align(-(-self.buffers[0].nbytes // MOST_PIECES)))

    def _sum(self, index: int) -> Iterator[int]:
        """Yield the checksum of each piece of a buffer."""
        buffer, size = self.buffers[index], self._piece_bytes
        for start in range(0, buffer.nbytes, size):
            yield zlib.crc32(buffer[start : start + size].data)

    def recover(self) -> bool:
        """Take the newest record with a correct checksum; returns False if no commit was ever made.

        Raises:
            RunFailedError: both records are torn, or the active buffer is damaged.
        """
        records = [self._record(index) for index in (0, 1)]
        newest = max((r for r in records if r), key=lambda r: int(r["commit"]), default=None)
        if newest is None:
            # The second record is written after the first is whole: no crash of a master tears both.
            if self._map.buffer[self._records : self._records + CHECKSUM.size].any():
                raise RunFailedError(
                    f"{self.path}: both records are torn; restore the state directory from a copy"
                )
            return False
        try:
            self._restore(newest)
        except (MalformedError, LookupError) as error:
            raise RunFailedError(
                f"{self.path}: the record of commit {newest['commit']}: {error}; restore the state directory "
                "from a copy"
            ) from None
        if damage := self.find_damage():
            raise RunFailedError(f"{damage}; restore the state directory from a copy")
        return True

    def _restore(self, saved: dict[str, Any]) -> None:
        """Take over a commit's numbers.

        Raises:
            MalformedError: a number is out of range.
            LookupError: a number is missing.
        """
        commits = restore_number(saved["commit"], "commit")
        checksums = [restore_number(each, "a checksum", SMALL) for each in saved.get("checksums", [])]
        if len(checksums) not in (0, -(-self.buffers[0].nbytes // self._piece_bytes)):
            raise MalformedError(f"{len(checksums)} checksums do not fit the buffer")
        self.record = Record(
            version=restore_number(saved["version"], "version"),
            active=restore_number(saved["active"], "active", Range(0, 1)),
            progress=restore_map(saved["progress"], "progress", PLACE),
            sequences=restore_map(saved["sequences"], "sequences", COUNT),
            steps=restore_number(saved["steps"], "steps"),
            turns=restore_map(saved.get("turns", {}), "turns", COUNT),
            refused=[restore_number(each, "refused") for each in saved["refused"]],
        )
        self.checksums, self._commits = checksums, commits

    def flush(self) -> None:
        """Bring the whole file to the disk."""
        self._map.sync()

    def _record(self, index: int) -> dict[str, Any] | None:
        start = self._records + index * RECORD_BYTES
        checksum, length = CHECKSUM.unpack_from(self._map.buffer.data, start)
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
    head = strict_json.encode({"name": name, "room": nbytes, **dataclasses.asdict(table)}).encode()
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
