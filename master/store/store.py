"""Shards: read, apply, versions. No gRPC, no files: where the buffers lie is handed in.

Each shard has two buffers. A push writes what comes of it into the idle one, then a commit makes that one the
active one: a reader of the active buffer never sees half a push, and a crash never leaves one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Protocol

import numpy as np

from common.errors import MalformedError, NotFoundError
from common.shards.pushes import Buffer, Header, Operation, PushReply
from common.shards.table import Table
from master.store import updates
from master.store.optimizers import Bytes, room
from master.store.policies import Policies, alike
from master.store.shard import Reading, Record, Shard, Slots
from master.store.updates import Change, Delay

Pieces = Iterable[tuple[int, Buffer]]
# Of the buffer that a push's outcome is written to, makes the push: its pieces may lie in that buffer.
Source = Callable[[memoryview], AbstractContextManager[Pieces]]


class Backing(Protocol):
    """Where shards lie."""

    def create(self, name: str, table: Table, nbytes: int) -> Slots:
        """Two buffers of `nbytes` zeros for a new shard; it exists once its first record is committed."""

    def existing(self) -> dict[str, Slots]:
        """The shards that were committed before."""

    def remove(self, name: str) -> None:
        """Forget a shard."""


class MemorySlots:
    """A shard in this process' memory alone."""

    def __init__(self, table: Table, nbytes: int) -> None:
        self.table = table
        self.buffers = (np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8))
        self.record = Record()

    def commit(self, record: Record) -> None:
        """Make the record true."""
        self.record = record


class Memory:
    """Shards in this process' memory alone: for the simulator and for tests."""

    def create(self, name: str, table: Table, nbytes: int) -> Slots:  # noqa: ARG002 - it has no use for names
        """Room for a new shard."""
        return MemorySlots(table, nbytes)

    def existing(self) -> dict[str, Slots]:
        """Nothing outlives the process."""
        return {}

    def remove(self, name: str) -> None:
        """There is nothing of it beside the store's own."""


class Store:
    """All shards by name, each with its policy. Safe for use by several threads."""

    def __init__(self, backing: Backing, policies: Policies | None = None) -> None:
        self._backing = backing
        self._policies = policies or alike()
        self._creating = threading.Lock()
        self._shards = {
            name: Shard(slots, self._policies(name)) for name, slots in backing.existing().items()
        }

    def versions(self) -> dict[str, int]:
        """The version of every shard."""
        return {name: shard.slots.record.version for name, shard in sorted(self._shards.items())}

    def next_batch(self, name: str, replica: int | None = None) -> int:
        """The first batch that is not in a shard, by one replica or by all; 0 where there is none."""
        shard = self._shards.get(name)
        if shard is None:
            return 0
        record = shard.slots.record
        if replica is None:
            return record.next_batch(shard.policy.replicas)
        return record.progress.get(replica, 0)

    def table(self, header: Header) -> Table:
        """The registered table of the shard that a push is for.

        Raises:
            NotFoundError: there is no such shard.
            MalformedError: the shard takes no such push.
        """
        return self._target(header).slots.table

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
            through = record.next_batch(shard.policy.replicas)
            header = Header(name, Operation.VALUE, record.version, 0, sequence, through, shard.slots.table)
            reading = Reading(shard, header)
            shard.readings.add(reading)
            if incarnation:
                shard.note_fetch(incarnation)
        return reading

    def create(self, header: Header, pieces: Pieces, admit: Callable[[], object] = lambda: None) -> PushReply:
        """Give a shard its first contents; the first one wins, a later one is told so.

        Raises:
            MalformedError: the shard exists with another table, or the contents are not finite.
        """
        with self._creating:
            admit()
            if header.shard in self._shards:
                self._check_table(self._shards[header.shard], header)
                return PushReply(header.shard, self._shards[header.shard].slots.record.version)
            pieces = list(pieces)
            _check_finite(header.table, pieces)
            policy = self._policies(header.shard)
            slots = self._backing.create(header.shard, header.table, room(header.table, policy.moments))
            for offset, data in pieces:
                slots.buffers[0][offset : offset + len(data)] = np.frombuffer(data, np.uint8)
            slots.commit(Record())
            self._shards[header.shard] = Shard(slots, policy)
        return PushReply(header.shard, 0, 0, 0, applied=True)

    def apply(
        self,
        header: Header,
        pieces: Pieces,
        admit: Callable[[], object] = lambda: None,
    ) -> PushReply:
        """Apply one push, once, or refuse it for good: a sequence that was answered before changes nothing.

        Args:
            header: whose push to what.
            pieces: the push's buffer, whole, in pieces with their offsets.
            admit: raises, at the moment of the commit, if the sender has lost its lease meanwhile.

        Raises: as `land`.
        """
        return self.land(header, lambda _: nullcontext(pieces), admit)

    def land(self, header: Header, source: Source, admit: Callable[[], object] = lambda: None) -> PushReply:
        """Apply a push that may be received into the idle buffer itself, where it becomes the result.

        Args:
            header: whose push to what.
            source: not called where the push is not to be applied.
            admit: as in `apply`.

        Raises:
            NotFoundError: there is no such shard.
            MalformedError: the shard takes no such push, the table is not the registered one, or the result
                is not finite.
        """
        shard = self._target(header)
        self._check_table(shard, header)
        with shard.writing:
            record = shard.slots.record
            if header.sequence <= (last := record.sequences.get(header.incarnation, 0)):
                refused = header.sequence == last and header.incarnation in record.refused
                return PushReply(header.shard, record.version, header.sequence, refused=refused)
            # No version is made meanwhile: at the commit it is what it is now, but for a fetch since.
            staleness = shard.staleness(header)
            taken = shard.policy.rule.admits(staleness)
            if taken:
                idle, active = shard.claim_idle(), shard.slots.buffers[record.active]
                change = _change(shard, header, active, idle, staleness)
                with source(idle[: shard.slots.table.nbytes].data) as pieces:
                    updates.apply_update(shard.regions, active, idle, pieces, shard.policy.replicas, change)
                for gap in shard.gaps:
                    idle[gap] = 0
            with shard.readers_left:
                admit()
                version = self._commit(shard, header, taken)
        return PushReply(header.shard, version, header.sequence, staleness, applied=taken, refused=not taken)

    def _commit(self, shard: Shard, header: Header, taken: bool) -> int:
        """Make a push's outcome true, its sequence used up either way; the shard's version."""
        record = shard.slots.record
        refused = {*record.refused} - {header.incarnation} | (set() if taken else {header.incarnation})
        answered = replace(
            record,
            sequences=record.sequences | {header.incarnation: header.sequence},
            refused=sorted(refused),
        )
        if taken:
            before = record.progress.get(header.replica, 0)
            answered = replace(
                answered,
                version=record.version + 1,
                active=1 - record.active,
                progress=record.progress | {header.replica: max(header.next_batch, before)},
                steps=record.steps + (header.operation is Operation.ACCRUED_GRADIENT),
            )
        shard.slots.commit(answered)
        shard.own_since[header.incarnation] += taken
        return answered.version

    def forget(self, incarnation: int) -> None:
        """Drop what is remembered of a fenced slave, whose pushes are refused from now on.

        Waits for no push that is under way: that one's own `admit` refuses it.
        """
        for shard in list(self._shards.values()):
            with shard.readers_left:
                record = shard.slots.record
                if incarnation in record.sequences:
                    left = {i: s for i, s in record.sequences.items() if i != incarnation}
                    refused = [i for i in record.refused if i != incarnation]
                    shard.slots.commit(replace(record, sequences=left, refused=refused))
                shard.forget(incarnation)

    @contextmanager
    def still(self, name: str) -> Iterator[None]:
        """Hold off a shard's pushes, for a reader that they have revoked time and again."""
        with self._shard(name).writing:
            yield

    def put_back(
        self, name: str, table: Table, nbytes: int, record: Record, fill: Callable[[Bytes], None]
    ) -> None:
        """Give a shard the contents that `fill` writes, and that record, whatever it has been through since.

        A rollback: the slaves are fenced before, and of none of them anything is remembered.
        """
        with self._creating:
            if name not in self._shards:
                slots = self._backing.create(name, table, nbytes)
                fill(slots.buffers[0])
                slots.commit(replace(record, active=0))
                self._shards[name] = Shard(slots, self._policies(name))
                return
        shard = self._shards[name]
        with shard.writing:
            fill(shard.claim_idle())
            with shard.readers_left:
                shard.slots.commit(replace(record, active=1 - shard.slots.record.active))
                shard.forget_all()

    def discard(self, name: str) -> None:
        """Have a shard be none: a slave will create it anew."""
        with self._creating:
            self._shards.pop(name, None)
            self._backing.remove(name)

    def _target(self, header: Header) -> Shard:
        shard = self._shard(header.shard)
        takes = shard.policy.operation
        if header.operation is not takes:
            raise MalformedError(f'"{header.shard}" takes {takes.name}, not {header.operation.name}')
        return shard

    def _shard(self, name: str) -> Shard:
        try:
            return self._shards[name]
        except KeyError:
            raise NotFoundError(f'there is no shard "{name}"; known are {sorted(self._shards)}') from None

    def _check_table(self, shard: Shard, header: Header) -> None:
        if header.table != shard.slots.table:
            raise MalformedError(
                f'the table pushed to "{header.shard}" is not the registered one; is this the same network?'
            )


def _change(shard: Shard, header: Header, active: Bytes, idle: Bytes, staleness: int) -> Change:
    """What a push makes of the parameters."""
    rule, optimizer, record = shard.policy.rule, shard.policy.optimizer, shard.slots.record
    weight = rule.weight(staleness)
    if optimizer is None:
        return updates.added(active, idle, weight)
    # None: it fetched the present version, or before the master was started anew.
    fetched = shard.kept(header.incarnation) if rule.compensates else None
    delay = None if fetched is None else Delay(fetched, rule.strength)
    return updates.stepped(optimizer, shard.slots.table, active, idle, record.steps, weight, delay)


def _check_finite(table: Table, pieces: Pieces) -> None:
    for region, _, _, piece in updates._pieces(updates.regions(table), pieces):
        updates.check_finite(region, np.frombuffer(piece, region.dtype))
