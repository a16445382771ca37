"""Memory-mapped arrays, read in bounded memory.

A page that is read through a mapping brings neighbours of up to 2 MiB into the process. Rows that lie in one
piece are therefore read from the file itself; other pages go back to the system.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from common.data.examples import Medium
from common.errors import ConfigError

# Bytes of a mapping that may be in a process' memory before they go back. The kernel keeps them in its cache,
# where further reads find them.
MOST_RESIDENT_BYTES = 64 << 20
# Bytes that come into memory with a page.
AROUND_BYTES = 2 << 20
# Files up to this size are taken for files that the kernel's cache holds.
SMALL_BYTES = 256 << 20


@dataclass(eq=False)
class Pages:
    """Pages of a mapping in this process.

    Attributes:
        mapping: read-only or shared; None: nothing is given back.
    """

    mapping: mmap.mmap | None
    _touched: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, count: int) -> None:
        """Count bytes that were read, and give pages back once too many may be in memory."""
        if self.mapping is None:
            return
        with self._lock:
            self._touched += count
            if self._touched < MOST_RESIDENT_BYTES:
                return
            self._touched = 0
        # The next access finds the file's own content again.
        self.mapping.madvise(mmap.MADV_DONTNEED)


class Column(Protocol):
    """Rows of an array; a read is a copy."""

    @property
    def bytes(self) -> int:
        """Size of the array."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read rows into an array that belongs to the caller."""


class ArrayColumn:
    """Rows that are read through memory."""

    def __init__(self, array: np.ndarray, pages: Pages) -> None:
        self._array, self._pages = array, pages
        self.bytes = array.nbytes

    def __len__(self) -> int:
        return len(self._array)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read rows."""
        values: np.ndarray = self._array[rows]
        self._pages.note(values.nbytes + len(rows) * AROUND_BYTES)
        return values


class FileColumn:
    """Rows read from the mapped file, each in a piece, neighbours together.

    Args:
        file: path of the file.
        array: view of the mapping with rows in one piece.
        offset: of the first row in the file.
    """

    def __init__(self, file: str, array: np.ndarray, offset: int) -> None:
        self._file, self._offset = file, offset
        self._dtype, self._shape, self._length = array.dtype, array.shape[1:], len(array)
        self._stride, self._row_bytes = array.strides[0], array[:1].nbytes
        self._descriptor = os.open(file, os.O_RDONLY)
        self.bytes = os.fstat(self._descriptor).st_size
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self._length

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read rows.

        Raises:
            ConfigError: the file is shorter than its mapping was.
        """
        content, size = bytearray(len(rows) * self._row_bytes), self._row_bytes
        starts = self._offset + rows * self._stride
        if (np.diff(starts) == size).all():
            starts, size = starts[:1], len(content)
        view = memoryview(content)
        for place, start in enumerate(starts.tolist()):
            if os.preadv(self._descriptor, [view[place * size : (place + 1) * size]], start) != size:
                raise ConfigError(f"{self._file}: has become shorter; restore it, and start the run again")
        return np.frombuffer(content, self._dtype).reshape(len(rows), *self._shape)


@dataclass(frozen=True, eq=False)
class MappedRows:
    """Rows of arrays, mapped or not: inputs by name, and targets."""

    x: Mapping[str, Column]
    y: Column

    @staticmethod
    def of(x: Mapping[str, np.ndarray], y: np.ndarray) -> MappedRows:
        """Return the rows of arrays of one length, each (n, ...).

        Raises:
            ConfigError: a mapped file cannot be opened again.
        """
        return MappedRows({name: open_column(array) for name, array in x.items()}, open_column(y))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def medium(self) -> Medium:
        """Place of the rows."""
        size = sum(column.bytes for column in (*self.x.values(), self.y))
        return Medium.MEMORY if size <= SMALL_BYTES else Medium.FILE

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read raw inputs."""
        return {name: column.read(rows) for name, column in self.x.items()}

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read raw targets."""
        return self.y.read(rows)


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array is a view of a mapped file."""
    return _find_mapping(array)[0] is not None


def open_column(array: np.ndarray) -> Column:
    """Return the rows of an array, from its file if it is a view of a mapped one.

    Changes of a private mapping live in memory alone, through which it is read.

    Raises:
        ConfigError: the mapped file cannot be opened again.
    """
    mapping, owner = _find_mapping(array)
    plain = np.asarray(array)
    if mapping is None or owner is None or owner.mode not in ("r", "r+", "w+"):
        return ArrayColumn(plain, Pages(None))
    if owner.filename is None or not hasattr(os, "preadv") or not plain[0].flags.c_contiguous:
        return ArrayColumn(plain, Pages(mapping if hasattr(mmap, "MADV_DONTNEED") else None))
    try:
        return FileColumn(str(owner.filename), plain, _offset(plain, mapping, owner))
    except OSError as error:
        raise ConfigError(
            f"{owner.filename}: cannot be read: {error.strerror or error}; keep mapped files where they are"
        ) from None


def _offset(array: np.ndarray, mapping: mmap.mmap, owner: np.memmap[Any, Any]) -> int:
    """Return the place of the first row in the file; mappings begin at multiples of a granularity."""
    beginning = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    inside: int = array.__array_interface__["data"][0] - beginning
    return owner.offset - owner.offset % mmap.ALLOCATIONGRANULARITY + inside


def _find_mapping(array: np.ndarray) -> tuple[mmap.mmap | None, np.memmap[Any, Any] | None]:
    """Return the mapping below an array, and the array of numpy that knows its file."""
    owner: np.memmap[Any, Any] | None = None
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        owner = base if isinstance(base, np.memmap) else owner
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return base, owner
