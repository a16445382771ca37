"""Snapshots: every shard at one version each, as safetensors, with what else the run needs as JSON.

A snapshot is a folder `snapshots/<number>`: a file a shard, and `snapshot.json` with the checksum of each. It
is written beside the others, brought to the disk, and only then given its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import safe_open

from common.errors import NotFoundError, RunFailedError
from common.messages import Kept
from common.table import Table
from master.mapped import table_of
from master.optimizers import Bytes
from master.shard import Reading, Record
from master.state import boot, sealed, sync, unsealed, write_durably
from master.store import Store

NEWEST = 3
# After so many readings that pushes could not wait for, pushes wait.
ATTEMPTS = 3
# Of a shard's buffer, what lies behind the tensors of its table: the master's optimizer's.
OPTIMIZER_STATE = "optimizer_state"
MANIFEST = "snapshot.json"
_PIECE_BYTES = 4 << 20
_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}


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
        table = self.table(name)

        def fill(buffer: Bytes) -> None:
            with safe_open(self._file(name), "np") as file:
                for each, array in table.arrays(buffer[: table.nbytes].data).items():
                    array[...] = file.get_tensor(each)
                if buffer.nbytes > table.nbytes:
                    buffer[table.nbytes :] = file.get_tensor(OPTIMIZER_STATE)

        return fill

    def check(self) -> None:
        """Read all of it.

        Raises:
            RunFailedError: a file is not what was written.
        """
        for name, shard in self.shards.items():
            path = self._file(name)
            try:
                with path.open("rb") as file:
                    crc = _checksum(file)
            except OSError as error:
                raise RunFailedError(f"{path}: cannot be read: {error.strerror}") from None
            if crc != shard["checksum"]:
                raise RunFailedError(f"{path}: is torn or damaged (checksum)")

    def kept(self, damage: str = "") -> Kept:
        """As a message."""
        return Kept(self.number, self.time, self.nbytes, self.versions, damage)

    def _file(self, name: str) -> Path:
        return self.folder / _file_name(name)


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
            shards = {name: _written(store, name, fresh / _file_name(name)) for name in store.versions()}
            content = {"number": number, "time": round(time.time(), 3), "boot": boot()}
            write_durably(fresh / MANIFEST, sealed({**content, "shards": shards, "run": run}))
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
        said = unsealed(text, folder / MANIFEST)
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

    def listed(self) -> list[Kept]:
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
                found.append(snapshot.kept())
            except RunFailedError as error:
                found.append(snapshot.kept(str(error)))
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


class _RevokedError(Exception):
    """Pushes could not wait for us."""


def _file_name(shard: str) -> str:
    return shard.replace("/", "-") + ".safetensors"


def _written(store: Store, name: str, path: Path) -> dict[str, Any]:
    """Write one version of a shard; what the manifest says of it."""
    for attempt in range(ATTEMPTS + 1):
        still = store.still(name) if attempt == ATTEMPTS else contextlib.nullcontext()
        with still, _held(store, name) as reading, path.open("wb") as file:
            try:
                crc, nbytes = _write(file, reading)
            except _RevokedError:
                continue
            # Pushes need not wait for the disk.
            reading.release()
            file.flush()
            os.fsync(file.fileno())
            return {
                "checksum": crc,
                "nbytes": nbytes,
                "room": len(reading.whole),
                "table": asdict(reading.header.table),
                "record": asdict(reading.record),
            }
    raise AssertionError("a shard that stands still can be read")


@contextmanager
def _held(store: Store, name: str) -> Iterator[Reading]:
    reading = store.read(name)
    try:
        yield reading
    finally:
        reading.release()


def _write(file: IO[bytes], reading: Reading) -> tuple[int, int]:
    """The format's own writer copies every tensor; this one writes from the buffer, checksum on the way."""
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
    """A safetensors file: the length of its header, the header, then the tensors side by side."""
    table, whole = reading.header.table, reading.whole
    # The widest first: each then begins at a multiple of its item's size.
    tensors = [
        (spec.name, _DTYPES[spec.dtype], spec.shape, whole[spec.offset : spec.offset + spec.nbytes])
        for spec in sorted(table.tensors, key=lambda spec: -np.dtype(spec.dtype).itemsize)
    ]
    if len(whole) > table.nbytes:
        tensors.append((OPTIMIZER_STATE, "U8", (len(whole) - table.nbytes,), whole[table.nbytes :]))
    header: dict[str, Any] = {
        "__metadata__": {"shard": reading.header.shard, "version": str(reading.record.version)}
    }
    end = 0
    for name, dtype, shape, data in tensors:
        start, end = end, end + len(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield len(encoded).to_bytes(8, "little") + encoded
    for *_, data in tensors:
        yield data


def _checksum(file: IO[bytes]) -> int:
    crc = 0
    while piece := file.read(_PIECE_BYTES):
        crc = zlib.crc32(piece, crc)
    return crc
