"""Reassembly of a shard's buffer from frames; a misfit is refused before memory is written."""

from __future__ import annotations

from common.bounds import LARGEST_SHARD_BYTES
from common.errors import MalformedError, TooLargeError
from common.shards.pushes import Frame, Header
from common.shards.table import Table, check_table

# The largest item size of a table: a piece that begins at a multiple of 8 bytes splits no number.
ALIGNMENT = 8


class Assembly:
    """A buffer under reception: a header, then pieces in order without gaps or overlaps.

    Args:
        frame: the first frame, which carries the header.
        registered: the table expected in the header; None for a shard that is not yet registered.

    Raises:
        MalformedError: the header is missing, or its table is malformed or not the registered one.
        TooLargeError: the table exceeds `LARGEST_SHARD_BYTES`.
    """

    def __init__(self, frame: Frame, registered: Table | None) -> None:
        if frame.header is None:
            raise MalformedError("the first frame of a shard has no header")
        self.header: Header = frame.header
        self.pieces: list[tuple[int, memoryview]] = []
        self._received = self._nbytes = 0
        table = self.header.table
        if table.nbytes > LARGEST_SHARD_BYTES:
            raise TooLargeError(
                f"{self.header.shard}: a shard of {table.nbytes} bytes; at most {LARGEST_SHARD_BYTES}"
            )
        if registered is None:
            check_table(table)
        elif table != registered:
            raise MalformedError(
                f'the table sent for "{self.header.shard}" is not the registered one; start every slave with '
                "one network and one version of layerwise"
            )
        self._nbytes = self.header.nbytes
        self._take(frame)

    @property
    def complete(self) -> bool:
        """True once every byte has arrived."""
        return self._received == self._nbytes

    def add(self, frame: Frame) -> None:
        """Keep the next frame.

        Raises:
            MalformedError: the frame is not the next piece.
        """
        if frame.header is not None:
            raise MalformedError(
                f"{self.header.shard}: a second header came before the last piece of the first"
            )
        if not len(frame.data):
            raise MalformedError(f"{self.header.shard}: an empty piece")
        self._take(frame)

    def expect(self, offset: int, nbytes: int) -> None:
        """Record the next piece, which the caller receives straight into the buffer.

        Raises:
            MalformedError: the piece is out of order.
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
                f"{self.header.shard}: a piece begins at {offset}, which is not a multiple of {ALIGNMENT}"
            )
        if offset != self._received or self._received + nbytes > self._nbytes:
            raise MalformedError(
                f"{self.header.shard}: a piece of {nbytes} bytes came at offset {offset}, but "
                f"{self._received} of {self._nbytes} bytes had come"
            )
        self._received += nbytes
