"""Shards: read, apply, versions. No gRPC, no files: where the buffers lie is handed in.

Each shard has two buffers. A push writes what comes of it into the idle one, then a commit makes that one the
active one: a reader of the active buffer never sees half a push, and a crash never leaves one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from common.errors import MalformedError, NotFoundError
from common.messages import Buffer, Header, Operation, PushReply
from common.table import Table
from master import updates
from master.updates import Bytes

# How long a push waits for a reader that holds the idle buffer; then that reader has to begin again.
READER_SECONDS = 2.0


@dataclass(frozen=True)
class Record:
    """What a commit makes true of a shard."""

    version: int = 0
    active: int = 0
    next_batch: int = 0
    sequences: dict[int, int] = field(default_factory=dict)


class Slots(Protocol):
    """Where one shard lies: two buffers and the last committed record."""

    table: Table
    buffers: tuple[Bytes, Bytes]
    record: Record

    def commit(self, record: Record) -> None:
        """Make the record true, at once or not at all."""


class Backing(Protocol):
    """Where shards lie."""

    def create(self, name: str, table: Table) -> Slots:
        """Room for a new shard; it exists once its first record is committed."""

    def existing(self) -> dict[str, Slots]:
        """The shards that were committed before."""


class MemorySlots:
    """A shard in this process' memory alone."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.buffers = (np.zeros(table.nbytes, np.uint8), np.zeros(table.nbytes, np.uint8))
        self.record = Record()

    def commit(self, record: Record) -> None:
        """Make the record true."""
        self.record = record


class Memory:
    """Shards in this process' memory alone: for the simulator and for tests."""

    def create(self, name: str, table: Table) -> Slots:  # noqa: ARG002 - a memory has no use for names
        """Room for a new shard."""
        return MemorySlots(table)

    def existing(self) -> dict[str, Slots]:
        """Nothing outlives the process."""
        return {}


class Reading:
    """One version of a shard, held for a reader until `release`; `revoked` once it must begin again."""

    def __init__(self, shard: _Shard, header: Header) -> None:
        self._shard = shard
        self.index = shard.slots.record.active
        self.header = header
        self.buffer = shard.slots.buffers[self.index].data
        self.revoked = False

    def release(self) -> None:
        """Let pushes have the buffer; more than once does no harm."""
        with self._shard.readers_left:
            self._shard.readings.discard(self)
            self._shard.readers_left.notify_all()


class _Shard:
    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.regions = updates.regions(slots.table)
        self.writing = threading.Lock()
        self.readers_left = threading.Condition()
        self.readings: set[Reading] = set()
        # What each slave last fetched, and how many of its own pushes came since: for staleness.
        self.fetched: dict[int, int] = {}
        self.own_since: Counter[int] = Counter()

    def claim_idle(self) -> Bytes:
        """The idle buffer, once no reader holds it."""
        idle = 1 - self.slots.record.active
        with self.readers_left:
            self.readers_left.wait_for(lambda: not self._held(idle), READER_SECONDS)
            for reading in self._held(idle):
                reading.revoked = True
                self.readings.discard(reading)
        return self.slots.buffers[idle]

    def _held(self, index: int) -> list[Reading]:
        return [reading for reading in self.readings if reading.index == index]

    def staleness(self, header: Header) -> int:
        """What others did since that slave last fetched: the version less that, less its own pushes since.

        A master that was started anew has seen no fetch and takes the slave's word for it.
        """
        fetched, own = self.fetched.get(header.incarnation), self.own_since[header.incarnation]
        if fetched is None:
            fetched, own = header.version, header.sequence - 1
        return max(0, self.slots.record.version - fetched - own)


class Store:
    """All shards by name. Safe for use by several threads."""

    def __init__(self, backing: Backing, replicas: int = 1) -> None:
        self._backing = backing
        self._replicas = replicas
        self._creating = threading.Lock()
        self._shards = {name: _Shard(slots) for name, slots in backing.existing().items()}

    def versions(self) -> dict[str, int]:
        """The version of every shard."""
        return {name: shard.slots.record.version for name, shard in sorted(self._shards.items())}

    def next_batch(self, name: str) -> int:
        """The first batch that is not in a shard; 0 where there is no such shard."""
        shard = self._shards.get(name)
        return shard.slots.record.next_batch if shard else 0

    def table(self, name: str) -> Table:
        """The registered table of a shard.

        Raises:
            NotFoundError: there is no such shard.
        """
        return self._shard(name).slots.table

    def read(self, name: str, incarnation: int = 0) -> Reading:
        """Hold one consistent version of a shard for reading; the caller releases it.

        Args:
            name: the shard.
            incarnation: the slave that fetches, 0 for any other reader.

        Raises:
            NotFoundError: there is no such shard.
        """
        shard = self._shard(name)
        with shard.readers_left:
            record = shard.slots.record
            sequence = record.sequences.get(incarnation, 0)
            header = Header(
                name, Operation.VALUE, record.version, 0, sequence, record.next_batch, shard.slots.table
            )
            reading = Reading(shard, header)
            shard.readings.add(reading)
            if incarnation:
                shard.fetched[incarnation] = record.version
                shard.own_since[incarnation] = 0
        return reading

    def create(self, header: Header, pieces: Iterable[tuple[int, Buffer]]) -> PushReply:
        """Give a shard its first contents; the first one wins, a later one is told so.

        Raises:
            MalformedError: the shard exists with another table, or the contents are not finite.
        """
        with self._creating:
            if header.shard in self._shards:
                self._check_table(self._shards[header.shard], header)
                return PushReply(header.shard, self._shards[header.shard].slots.record.version)
            pieces = list(pieces)
            _check_finite(header.table, pieces)
            slots = self._backing.create(header.shard, header.table)
            for offset, data in pieces:
                slots.buffers[0][offset : offset + len(data)] = np.frombuffer(data, np.uint8)
            slots.commit(Record())
            self._shards[header.shard] = _Shard(slots)
        return PushReply(header.shard, 0, 0, 0, applied=True)

    def apply(
        self,
        header: Header,
        pieces: Iterable[tuple[int, Buffer]],
        admit: Callable[[], object] = lambda: None,
    ) -> PushReply:
        """Apply one push, once: a push whose sequence was applied before changes nothing.

        Args:
            header: whose push to what.
            pieces: the push's buffer, whole, in pieces with their offsets.
            admit: raises, at the moment of the commit, if the sender has lost its lease meanwhile.

        Raises:
            NotFoundError: there is no such shard.
            MalformedError: the table is not the registered one, or the result is not finite.
        """
        shard = self._shard(header.shard)
        self._check_table(shard, header)
        with shard.writing:
            record = shard.slots.record
            if header.sequence <= record.sequences.get(header.incarnation, 0):
                return PushReply(header.shard, record.version, header.sequence)
            idle, active = shard.claim_idle(), shard.slots.buffers[record.active]
            updates.apply_update(shard.regions, active, idle, pieces, self._replicas)
            with shard.readers_left:
                admit()
                staleness = shard.staleness(header)
                applied = Record(
                    record.version + 1,
                    1 - record.active,
                    max(record.next_batch, header.next_batch),
                    shard.slots.record.sequences | {header.incarnation: header.sequence},
                )
                shard.slots.commit(applied)
                shard.own_since[header.incarnation] += 1
        return PushReply(header.shard, applied.version, header.sequence, staleness, applied=True)

    def forget(self, incarnation: int) -> None:
        """Drop what is remembered of a fenced slave, whose pushes are refused from now on.

        Waits for no push that is under way: that one's own `admit` refuses it.
        """
        for shard in list(self._shards.values()):
            with shard.readers_left:
                record = shard.slots.record
                if incarnation in record.sequences:
                    left = {i: s for i, s in record.sequences.items() if i != incarnation}
                    shard.slots.commit(replace(record, sequences=left))
                shard.fetched.pop(incarnation, None)
                shard.own_since.pop(incarnation, None)

    def _shard(self, name: str) -> _Shard:
        try:
            return self._shards[name]
        except KeyError:
            raise NotFoundError(f'there is no shard "{name}"; known are {sorted(self._shards)}') from None

    def _check_table(self, shard: _Shard, header: Header) -> None:
        if header.table != shard.slots.table:
            raise MalformedError(
                f'the table pushed to "{header.shard}" is not the registered one; is this the same network?'
            )


def _check_finite(table: Table, pieces: Iterable[tuple[int, Buffer]]) -> None:
    for region, _, _, piece in updates._pieces(updates.regions(table), pieces):
        updates.check_finite(region, np.frombuffer(piece, region.dtype))
