"""Version of a shard as a safetensors file, written from the mapped buffer while pushes go on."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common import strict_json
from common.errors import RunFailedError
from common.shards.table import Table
from master.disk.files import Files, Writer
from master.store.optimizers import Bytes
from master.store.shard import Reading
from master.store.store import Store

# Readings that pushes may revoke; then pushes wait.
ATTEMPTS = 3
# Name of the bytes behind a shard's tensors: the server optimizer's moments.
OPTIMIZER_STATE = "optimizer_state"
_PIECE_BYTES = 4 << 20
_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}


class _RevokedError(Exception):
    """Pushes could not wait for the reading."""


def file_name(shard: str) -> str:
    """Name of a shard's file."""
    return shard.replace("/", "-") + ".safetensors"


def write(files: Files, store: Store, name: str, path: Path) -> dict[str, Any]:
    """Write one version of a shard to the disk; returns the manifest's entry.

    Raises:
        OSError: the disk has no room.
        RunFailedError: the shard is damaged.
    """
    if damage := store.find_damage(name):
        raise RunFailedError(f"{damage}; a snapshot would keep the damage")
    for attempt in range(ATTEMPTS + 1):
        waiting = store.hold_pushes(name) if attempt == ATTEMPTS else contextlib.nullcontext()
        with waiting, _hold(store, name) as reading, files.create(path) as file:
            try:
                crc, nbytes = _copy(file, reading)
            except _RevokedError:
                continue
            # Pushes need not wait for the disk.
            reading.release()
            file.sync()
            return {
                "checksum": crc,
                "nbytes": nbytes,
                "room": len(reading.whole),
                "table": asdict(reading.header.table),
                "record": asdict(reading.record),
            }
    raise AssertionError("a shard without pushes can be read")


@contextmanager
def _hold(store: Store, name: str) -> Iterator[Reading]:
    reading = store.read(name)
    try:
        yield reading
    finally:
        reading.release()


def _copy(file: Writer, reading: Reading) -> tuple[int, int]:
    """Copy a reading to a file; returns CRC-32 and size. The format's own writer would copy every tensor."""
    crc = written = 0
    for part in _parts(reading):
        for start in range(0, len(part), _PIECE_BYTES):
            piece = part[start : start + _PIECE_BYTES]
            file.write(piece)
            crc, written = zlib.crc32(piece, crc), written + len(piece)
            if reading.revoked:
                raise _RevokedError
    return crc, written


def _parts(reading: Reading) -> Iterator[bytes | memoryview]:
    """Lay out a safetensors file: length of the header, header, tensors side by side."""
    table, whole = reading.header.table, reading.whole
    # The widest first: every tensor then begins at a multiple of its item size.
    tensors = [
        (spec.name, _DTYPES[spec.dtype], spec.shape, whole[spec.offset : spec.offset + spec.nbytes])
        for spec in sorted(table.tensors, key=lambda spec: -np.dtype(spec.dtype).itemsize)
    ]
    if len(whole) > table.nbytes:
        tensors.append((_moments_name(table), "U8", (len(whole) - table.nbytes,), whole[table.nbytes :]))
    header: dict[str, Any] = {
        "__metadata__": {"shard": reading.header.shard, "version": str(reading.record.version)}
    }
    end = 0
    for name, dtype, shape, data in tensors:
        start, end = end, end + len(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = strict_json.encode(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield len(encoded).to_bytes(8, "little") + encoded
    for *_, data in tensors:
        yield data


def checksum(files: Files, path: Path) -> int:
    """Compute the CRC-32 of a whole file."""
    crc = 0
    for start in range(0, files.size(path), _PIECE_BYTES):
        crc = zlib.crc32(files.read(path, start, _PIECE_BYTES), crc)
    return crc


def filler(files: Files, path: Path, table: Table) -> Callable[[Bytes], None]:
    """Make a reader of a file into a shard's buffer; the file's checksum has been verified."""

    def fill(buffer: Bytes) -> None:
        length = int.from_bytes(files.read(path, 0, 8), "little")
        header = json.loads(files.read(path, 8, length))
        for name, target in _places(table, buffer):
            start, end = header[name]["data_offsets"]
            for offset in range(start, end, _PIECE_BYTES):
                piece = files.read(path, 8 + length + offset, min(_PIECE_BYTES, end - offset))
                target[offset - start : offset - start + len(piece)] = np.frombuffer(piece, np.uint8)

    return fill


def _places(table: Table, whole: Bytes) -> Iterator[tuple[str, Bytes]]:
    """Yield the parts of a shard's buffer, tensors and moments, by their names in the file."""
    for spec in table.tensors:
        yield spec.name, whole[spec.offset : spec.offset + spec.nbytes]
    if len(whole) > table.nbytes:
        yield _moments_name(table), whole[table.nbytes :]


def _moments_name(table: Table) -> str:
    """Name of the moments in a file; underscores tell the name from a tensor's."""
    name, names = OPTIMIZER_STATE, {spec.name for spec in table.tensors}
    while name in names:
        name += "_"
    return name
