"""Puts the frames of one shard's buffer together again, refusing whatever does not fit before keeping it."""

from __future__ import annotations

from common.errors import MalformedError, TooLargeError
from common.shards.pushes import Frame, Header
from common.shards.table import Table, check_table

# A shard is one layer's state; the table is checked against this before anything is allocated.
LARGEST_SHARD_BYTES = 8 << 30
# The largest item of a table: a piece that begins at a multiple of it splits no number.
ALIGNMENT = 8


class Assembly:
    """One buffer as it comes in: a header, then pieces in order without gaps or overlaps.

    Args:
        frame: the first frame, which has the header.
        registered: the table that the header's must equal; None where the shard is new to us.

    Raises:
        MalformedError: no header, a table that is wrong or not the registered one.
        TooLargeError: the table says more than a shard may have.
    """

    def __init__(self, frame: Frame, registered: Table | None) -> None:
        if frame.header is None:
            raise MalformedError("data came where a header was expected")
        self.header: Header = frame.header
        self.pieces: list[tuple[int, memoryview]] = []
        self._received = 0
        table = self.header.table
        if table.nbytes > LARGEST_SHARD_BYTES:
            raise TooLargeError(f"{self.header.shard}: {table.nbytes} bytes; at most {LARGEST_SHARD_BYTES}")
        if registered is None:
            check_table(table)
        elif table != registered:
            raise MalformedError(
                f'the table sent for "{self.header.shard}" is not the registered one; is it the same network?'
            )
        self._take(frame)

    @property
    def complete(self) -> bool:
        """Whether every byte has come."""
        return self._received == self.header.table.nbytes

    def add(self, frame: Frame) -> None:
        """Take the next frame.

        Raises:
            MalformedError: it is not the piece that comes next.
        """
        if frame.header is not None:
            raise MalformedError(
                f"{self.header.shard}: a header came before all data of the last one had come"
            )
        if not len(frame.data):
            raise MalformedError(f"{self.header.shard}: an empty piece")
        self._take(frame)

    def expect(self, offset: int, nbytes: int) -> None:
        """Take note of the next piece, which comes to its place by itself.

        Raises:
            MalformedError: it is not the piece that comes next.
        """
        if not nbytes:
            raise MalformedError(f"{self.header.shard}: an empty piece")
        self._note(offset, nbytes)

    def _take(self, frame: Frame) -> None:
        view = memoryview(frame.data)
        self._note(frame.offset, view.nbytes)
        if view.nbytes:
            self.pieces.append((frame.offset, view))

    def _note(self, offset: int, nbytes: int) -> None:
        if offset % ALIGNMENT:
            raise MalformedError(
                f"{self.header.shard}: a piece begins at {offset}, which is no multiple of {ALIGNMENT}"
            )
        if offset != self._received or self._received + nbytes > self.header.table.nbytes:
            raise MalformedError(
                f"{self.header.shard}: {nbytes} bytes came for offset {offset} where "
                f"{self._received} of {self.header.table.nbytes} had come"
            )
        self._received += nbytes
