"""Memory-mapped arrays: pages that were read go back to the system, so that a process stays small."""

from __future__ import annotations

import mmap
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.data.examples import Medium

# Bytes of a mapping that may be in a process' memory before they go back. The kernel keeps them in its cache,
# where further reads find them.
MOST_RESIDENT_BYTES = 16 << 20
# Mappings up to this size are taken for files that the kernel's cache holds.
SMALL_BYTES = 256 << 20
# Around each end of a row the kernel maps up to 16 neighbours of a page that its cache holds.
AROUND_BYTES = 128 << 10


@dataclass(eq=False)
class Pages:
    """Pages of one mapping in this process.

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


@dataclass(eq=False)
class Column:
    """Array of rows, mapped or not, whose reads are copies."""

    array: np.ndarray
    pages: Pages

    @staticmethod
    def of(array: np.ndarray) -> Column:
        """Return the column of an array; private mappings keep their pages, which alone hold changes."""
        mapping, shared = _find_mapping(array)
        returned = shared and hasattr(mmap, "MADV_DONTNEED")
        return Column(np.asarray(array), Pages(mapping if returned else None))

    @property
    def bytes(self) -> int:
        """Size of the mapping, or of an array without."""
        return len(self.pages.mapping) if self.pages.mapping is not None else self.array.nbytes

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read rows into an array that belongs to the caller."""
        values: np.ndarray = self.array[rows]
        self.pages.note(values.nbytes + len(rows) * AROUND_BYTES)
        return values


@dataclass(frozen=True, eq=False)
class MappedRows:
    """Rows of two arrays, of which at least one is mapped."""

    x: Column
    y: Column

    @staticmethod
    def of(x: np.ndarray, y: np.ndarray) -> MappedRows:
        """Return the rows of two arrays of one length."""
        return MappedRows(Column.of(x), Column.of(y))

    def __len__(self) -> int:
        return len(self.x.array)

    @property
    def medium(self) -> Medium:
        """Place of the rows."""
        small = self.x.bytes + self.y.bytes <= SMALL_BYTES
        return Medium.MEMORY if small else Medium.FILE

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Read raw inputs."""
        return self.x.read(rows)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read raw targets."""
        return self.y.read(rows)


def is_mapped(array: object) -> bool:
    """Whether an array is a view of a mapped file."""
    return isinstance(array, np.ndarray) and _find_mapping(array)[0] is not None


def _find_mapping(array: np.ndarray) -> tuple[mmap.mmap | None, bool]:
    """Return the mapping below an array, and whether it is known to be read-only or shared."""
    shared = False
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        if isinstance(base, np.memmap):
            shared = base.mode in ("r", "r+", "w+")
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return base, shared
