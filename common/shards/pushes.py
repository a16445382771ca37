"""Messages of the parameter service as plain values: pushes, pulls and their answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from common.shards.narrow import push_nbytes
from common.shards.table import Precision, Table

# Bytes of a buffer: of a received message, or a view into a tensor's memory.
Buffer = bytes | bytearray | memoryview


class Operation(IntEnum):
    """Meaning of a frame's buffer."""

    OPERATION_UNSPECIFIED = 0
    CREATE = 1
    UPDATE = 2
    VALUE = 3
    ACCRUED_GRADIENT = 4
    MOVING = 5

    @property
    def answers(self) -> bool:
        """Whether the master sends the frame, as the answer to a pull."""
        return self in (Operation.VALUE, Operation.MOVING)


@dataclass(frozen=True, slots=True)
class Header:
    """Header of the buffer that follows; see `protos/layerwise.proto` for the fields."""

    shard: str
    operation: Operation
    version: int = 0
    incarnation: int = 0
    sequence: int = 0
    next_batch: int = 0
    table: Table = field(default_factory=lambda: Table((), 0))
    fetched_sequence: int = 0
    replica: int = 0
    precision: Precision = Precision.FLOAT32
    fragment: int = 0
    fragments: int = 0

    @property
    def layout(self) -> tuple[Table, int]:
        """Table of a push or moving version at full precision, and its offset in the shard's buffer."""
        pushed = self.table.pushed
        return pushed.fragment(self.fragment, self.fragments) if self.fragments else (pushed, 0)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the buffer that follows: whole only in creations and in answers to full pulls."""
        whole = self.operation in (Operation.CREATE, Operation.VALUE)
        return self.table.nbytes if whole else push_nbytes(self.layout[0], self.precision)


@dataclass(frozen=True, slots=True)
class Frame:
    """A header, a piece of a buffer at `offset`, or both."""

    header: Header | None = None
    offset: int = 0
    data: Buffer = b""


@dataclass(frozen=True, slots=True)
class PushReply:
    """Answer to a push."""

    shard: str = ""
    version: int = 0
    sequence: int = 0
    staleness: int = 0
    applied: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Request for one consistent version of a shard; `moving`: without the frozen tensors, or a fragment."""

    shard: str = ""
    incarnation: int = 0
    moving: bool = False
    fragment: int = 0
    fragments: int = 0
