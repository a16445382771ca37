"""Store of all shards: read, apply, versions. No gRPC and no files; a backing provides the buffers.

Each shard has two buffers. A push writes its result into the idle buffer, then a commit makes that buffer
active. A reader of the active buffer never sees half a push, and a crash never leaves half a push.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Protocol

import numpy as np

from common.errors import MalformedError, NotFoundError
from common.shards.average import AVERAGE, WEIGHTS
from common.shards.pushes import Buffer, Header, Operation, PushReply
from common.shards.table import Table
from master.store import updates
from master.store.average import parts
from master.store.optimizers import Bytes
from master.store.policies import Policies, uniform
from master.store.shard import BufferPair, Reading, Record, Shard
from master.store.updates import Change, Delay

Pieces = Iterable[tuple[int, Buffer]]
# Receives a push, given the buffer for the result: the pieces may lie in that buffer.
Source = Callable[[memoryview], AbstractContextManager[Pieces]]


class Backing(Protocol):
    """Provider of shards' buffers."""

    def create(self, name: str, table: Table, nbytes: int) -> BufferPair:
        """Give a new shard two buffers of `nbytes` zeros; the shard exists from its first commit on."""

    def load(self) -> dict[str, BufferPair]:
        """Shards from an earlier process."""

    def remove(self, name: str) -> None:
        """Forget a shard."""


class MemoryPair:
    """Buffers of a shard in process memory."""

    def __init__(self, table: Table, nbytes: int) -> None:
        self.table = table
        self.buffers = (np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8))
        self.record = Record()

    def commit(self, record: Record) -> None:
        """Replace the record."""
        self.record = record

    def find_damage(self) -> str:
        """Nothing is known of damage in memory."""
        return ""


class Memory:
    """Backing in process memory, for the simulator and for tests."""

    def create(self, name: str, table: Table, nbytes: int) -> BufferPair:  # noqa: ARG002 - names matter to files alone
        """Give a new shard two buffers of zeros."""
        return MemoryPair(table, nbytes)

    def load(self) -> dict[str, BufferPair]:
        """No shard outlives the process."""
        return {}

    def remove(self, name: str) -> None:
        """Do nothing: the store drops the buffers."""


class Store:
    """Shards by name, with their policies. Safe for several threads. Raises NotFoundError for others."""

    def __init__(self, backing: Backing, policies: Policies | None = None) -> None:
        self._backing = backing
        self._policies = policies or uniform()
        self._creating = threading.Lock()
        self._shards = {name: Shard(pair, self._policies(name)) for name, pair in backing.load().items()}

    def deal(self, start: int, replicas: Sequence[int]) -> None:
        """Take pushes of other replicas, R by layer, from a batch on that is the first missing."""
        with self._creating:
            self._policies.deal(start, replicas)
            for name, shard in self._shards.items():
                shard.policy = self._policies(name)

    def versions(self) -> dict[str, int]:
        """Version of every shard."""
        return {name: shard.pair.record.version for name, shard in sorted(self._shards.items())}

    def records(self) -> dict[str, tuple[Record, int]]:
        """Committed record of every shard, and the bytes of its tensors."""
        return {
            name: (shard.pair.record, shard.pair.table.nbytes) for name, shard in sorted(self._shards.items())
        }

    def incarnations(self) -> set[int]:
        """Every incarnation whose sequence a shard keeps."""
        return {i for shard in list(self._shards.values()) for i in shard.pair.record.sequences}

    def next_batch(self, name: str, replica: int | None = None) -> int:
        """First batch missing in a shard, of a replica or of every replica; 0 without the shard."""
        shard = self._shards.get(name)
        return shard.policy.next_batch(shard.pair.record.progress, replica) if shard else 0

    def table(self, header: Header) -> Table:
        """Registered table of the shard of a push.

        Raises:
            NotFoundError: no shard has the name.
            MalformedError: the shard takes another operation.
        """
        return self._target(header).pair.table

    def read(
        self,
        name: str,
        incarnation: int = 0,
        *,
        moving: bool = False,
        fragment: int = 0,
        fragments: int = 0,
    ) -> Reading:
        """Hold a consistent version of a shard for reading; the caller releases the reading.

        Args:
            name: of the shard; "k/average" reads "k/weights" with the average in the place of the parameters.
            incarnation: of the slave that fetches; 0 for a reader without a lease.
            moving: read without the frozen tensors.
            fragment: number of the fragment to read; `moving` alone has fragments.
            fragments: their count; 0: read the whole.

        Raises:
            NotFoundError: no shard has the name.
            MalformedError: there is no such fragment, or a part of the average is asked for.
        """
        shard, averaged = self._look_up(name)
        if (fragments and not moving) or fragment >= max(fragments, 1):
            raise MalformedError(f"{name}: no version has fragment {fragment} of {fragments}")
        if averaged and (moving or incarnation):
            raise MalformedError(f"{name}: is whole, and for readers without a lease; fetch the weights")
        with shard.readers_left:
            record = shard.pair.record
            sequence = record.sequences.get(incarnation, 0)
            through = shard.policy.next_batch(record.progress)
            operation = Operation.MOVING if moving else Operation.VALUE
            header = Header(
                name,
                operation,
                record.version,
                0,
                sequence,
                through,
                shard.pair.table,
                fragment=fragment,
                fragments=fragments,
            )
            start = header.layout[1] if fragments else 0
            places = [slice(start, start + header.nbytes)]
            if averaged:
                places = parts(shard.pair.table, shard.policy.moments)
            reading = Reading(shard, header, places)
            shard.readings.add(reading)
            if incarnation:
                shard.note_fetch(incarnation)
        return reading

    def create(self, header: Header, pieces: Pieces, admit: Callable[[], object] = lambda: None) -> PushReply:
        """Create a shard with its first contents; of several creations the first wins.

        Raises:
            MalformedError: the shard exists with another table, or the contents are not finite.
        """
        with self._creating:
            admit()
            if header.shard in self._shards:
                self._check_table(self._shards[header.shard], header)
                return PushReply(header.shard, self._shards[header.shard].pair.record.version)
            pieces = list(pieces)
            _check_finite(header.table, pieces)
            policy = self._policies(header.shard)
            pair = self._backing.create(header.shard, header.table, policy.room(header.table))
            for offset, data in pieces:
                pair.buffers[0][offset : offset + len(data)] = np.frombuffer(data, np.uint8)
            if policy.average:
                policy.average.begin(header.table, policy.moments, pair.buffers[0])
            pair.commit(Record())
            self._shards[header.shard] = Shard(pair, policy)
        return PushReply(header.shard, 0, 0, 0, applied=True)

    def apply(
        self,
        header: Header,
        pieces: Pieces,
        admit: Callable[[], object] = lambda: None,
    ) -> PushReply:
        """Apply a push once, or refuse the push for good; a sequence with an answer changes no shard.

        Args:
            header: of the push.
            pieces: the whole buffer of the push, in pieces with their offsets.
            admit: raises, at the moment of the commit, if the sender has lost its lease.

        Raises: as `land`.
        """
        return self.land(header, lambda _: nullcontext(pieces), admit)

    def land(self, header: Header, source: Source, admit: Callable[[], object] = lambda: None) -> PushReply:
        """Apply a push that `source` may receive into the idle buffer, to become the result in place.

        The sequences of an incarnation are 1, 2, 3, ...: a sequence with an answer changes no shard, and a
        gap is an error that uses no sequence up.

        Args:
            header: of the push.
            source: not called for a push that is not applied. May use the idle buffer for float32 alone.
            admit: as in `apply`.

        Raises:
            NotFoundError: no shard has the name.
            MalformedError: the shard takes another operation, the registered table differs, a sequence was
                left out, or the result is not finite.
        """
        shard = self._target(header)
        self._check_table(shard, header)
        with shard.writing:
            record = shard.pair.record
            if header.sequence <= (last := record.sequences.get(header.incarnation, 0)):
                refused = header.sequence == last and header.incarnation in record.refused
                return PushReply(header.shard, record.version, header.sequence, refused=refused)
            _check_order(header, record.version, last)
            # The lock keeps the version: only a fetch can change the staleness before the commit.
            staleness = shard.staleness(header)
            taken = shard.policy.rule.admits(staleness)
            if taken:
                idle, active = shard.claim_idle(), shard.pair.buffers[record.active]
                if header.fragments:
                    np.copyto(idle, active)
                change = _choose_change(shard, header, active, idle, staleness)
                with source(idle[: header.nbytes].data) as pieces:
                    widened = updates.widen(header, pieces)
                    updates.apply_update(shard.regions, active, idle, widened, shard.policy.replicas, change)
                for gap in shard.gaps:
                    idle[gap] = 0
                shard.move_average(_advance(record, header))
            with shard.readers_left:
                admit()
                version = self._commit(shard, header, taken)
        return PushReply(header.shard, version, header.sequence, staleness, applied=taken, refused=not taken)

    def _commit(self, shard: Shard, header: Header, taken: bool) -> int:
        """Commit the outcome of a push, and use the sequence up; returns the version."""
        record = shard.pair.record
        incarnation = header.incarnation
        refused = [other for other in record.refused if other != incarnation]
        stepped = taken and shard.policy.optimizer is not None
        turn, turned = header.fragment, stepped and header.fragments > 0
        answered = Record(
            version=record.version + taken,
            active=1 - record.active if taken else record.active,
            progress=_advance(record, header) if taken else record.progress,
            sequences=record.sequences | {incarnation: header.sequence},
            steps=record.steps + stepped,
            turns=record.turns | {turn: record.turns.get(turn, 0) + 1} if turned else record.turns,
            refused=refused if taken else sorted([*refused, incarnation]),
        )
        shard.pair.commit(answered)
        shard.own_since[header.incarnation] += taken
        return answered.version

    def forget(self, incarnation: int) -> None:
        """Drop the state of a fenced slave, whose pushes are refused from now on.

        Does not wait for a push under way, which `admit` refuses at the commit.
        """
        for shard in list(self._shards.values()):
            with shard.readers_left:
                record = shard.pair.record
                if incarnation in record.sequences:
                    left = {i: s for i, s in record.sequences.items() if i != incarnation}
                    refused = [i for i in record.refused if i != incarnation]
                    shard.pair.commit(replace(record, sequences=left, refused=refused))
                shard.forget(incarnation)

    def find_damage(self, name: str) -> str:
        """Describe how a shard's present contents differ from their checksums; empty without damage."""
        return self._shard(name).pair.find_damage()

    @contextmanager
    def hold_pushes(self, name: str) -> Iterator[None]:
        """Hold off a shard's pushes, for a reader that was revoked repeatedly."""
        with self._shard(name).writing:
            yield

    def put_back(
        self, name: str, table: Table, nbytes: int, record: Record, fill: Callable[[Bytes], None]
    ) -> None:
        """Replace a shard's contents by the output of `fill`, and the record.

        For a rollback: every slave has been fenced, and its state is dropped.
        """
        with self._creating:
            if name not in self._shards:
                pair = self._backing.create(name, table, nbytes)
                fill(pair.buffers[0])
                pair.commit(replace(record, active=0))
                self._shards[name] = Shard(pair, self._policies(name))
                return
        shard = self._shards[name]
        with shard.writing:
            fill(shard.claim_idle())
            with shard.readers_left:
                shard.pair.commit(replace(record, active=1 - shard.pair.record.active))
                shard.forget_all()
            shard.share_frozen()

    def discard(self, name: str) -> None:
        """Remove a shard, for a slave to create anew."""
        with self._creating:
            self._shards.pop(name, None)
            self._backing.remove(name)

    def _target(self, header: Header) -> Shard:
        shard = self._shard(header.shard)
        takes = shard.policy.operation
        if header.operation is not takes:
            raise MalformedError(f'"{header.shard}" takes {takes.name}, not {header.operation.name}')
        count = shard.policy.fragments
        if header.fragments != count or header.fragment >= max(count, 1):
            raise MalformedError(
                f'"{header.shard}" takes pushes in {count or "no"} fragments, not fragment {header.fragment} '
                f"of {header.fragments}"
            )
        return shard

    def _look_up(self, name: str) -> tuple[Shard, bool]:
        """Return the shard behind a name that readers give, and whether the name is that of its average."""
        layer, _, kind = name.partition("/")
        shard = self._shards.get(f"{layer}/{WEIGHTS}") if kind == AVERAGE else None
        if shard is not None and shard.policy.average:
            return shard, True
        return self._shard(name), False

    def _shard(self, name: str) -> Shard:
        try:
            return self._shards[name]
        except KeyError:
            raise NotFoundError(f'there is no shard "{name}"; known are {sorted(self._shards)}') from None

    def _check_table(self, shard: Shard, header: Header) -> None:
        if header.table != shard.pair.table:
            raise MalformedError(
                f'the table pushed to "{header.shard}" is not the registered one; is this the same network?'
            )


def _choose_change(shard: Shard, header: Header, active: Bytes, idle: Bytes, staleness: int) -> Change:
    """Choose the arithmetic for a push's parameters."""
    rule, optimizer, record = shard.policy.rule, shard.policy.optimizer, shard.pair.record
    weight = rule.weight(staleness)
    if optimizer is None:
        return updates.make_addition(active, idle, weight)
    # None: the sender fetched the present version, or fetched before the master's restart.
    fetched = shard.find_fetched(header.incarnation) if rule.compensates else None
    delay = None if fetched is None else Delay(fetched, rule.strength)
    steps = record.turns.get(header.fragment, 0) if header.fragments else record.steps
    return updates.make_step(optimizer, shard.pair.table, active, idle, steps, weight, delay)


def _advance(record: Record, header: Header) -> dict[int, int]:
    """Return the first missing batch, by replica, after a push."""
    reached = max(header.next_batch, record.progress.get(header.replica, 0))
    return record.progress | {header.replica: reached}


def _check_order(header: Header, version: int, last: int) -> None:
    """Check that a push follows the sender's last, and a version that exists.

    Raises:
        MalformedError: a sequence was left out, or the version lies ahead; nothing has changed.
    """
    if header.sequence != last + 1:
        raise MalformedError(
            f"{header.shard}: a push with sequence = {header.sequence} came where {last + 1} is due; nothing "
            "was changed"
        )
    if header.version > version:
        raise MalformedError(f"{header.shard}: version = {header.version} is ahead; the shard has {version}")


def _check_finite(table: Table, pieces: Pieces) -> None:
    for region, _, _, piece in updates.cut_pieces(updates.regions(table), pieces):
        updates.check_finite(region, np.frombuffer(piece, region.dtype))
