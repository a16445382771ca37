"""Shard: buffers, committed record, and readers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from common.errors import UnreachableError
from common.shards.pushes import Header
from common.shards.table import Table
from master.store import updates
from master.store.average import Progress
from master.store.optimizers import Bytes
from master.store.policies import Policy

# Longest wait of a push for a snapshot that holds the idle buffer; then the snapshot has to begin again.
READER_SECONDS = 2.0
# Longest wait for readers over the network; then they go on with a copy, which they share.
PROMPT_SECONDS = 0.05
# Copies of a shard at a time, each of one version; one more ends the copy whose readers take the least.
MOST_COPIES = 2


@dataclass(frozen=True)
class Record:
    """Committed facts of a shard.

    Attributes:
        version: number of applied pushes.
        active: index of the buffer that holds the shard.
        progress: first missing batch, by replica.
        sequences: last push that was applied or refused, by incarnation.
        steps: number of the server optimizer's steps.
        refused: incarnations whose last push was refused.
        turns: number of the server optimizer's steps by fragment.
    """

    version: int = 0
    active: int = 0
    progress: dict[int, int] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    steps: int = 0
    refused: list[int] = field(default_factory=list)
    turns: dict[int, int] = field(default_factory=dict)


class BufferPair(Protocol):
    """Two buffers of one shard, and the last committed record.

    Each buffer holds the table's tensors, then the optimizer's moments, then the average of the parameters.
    """

    table: Table
    buffers: tuple[Bytes, Bytes]
    record: Record

    def commit(self, record: Record) -> None:
        """Replace the record, atomically."""

    def find_damage(self) -> str:
        """Describe a known damage of the active buffer; empty without."""


class Reading:
    """Version of a shard, held for a reader until `release`; `revoked` once pushes could not wait.

    Args:
        shard: the shard.
        header: of the version.
        places: bytes of the shard's buffer that make up the version, in order.
    """

    def __init__(self, shard: Shard, header: Header, places: list[slice]) -> None:
        self._shard = shard
        self.index = shard.pair.record.active
        self.header = header
        self.record = shard.pair.record
        # With moments and average.
        self.whole = shard.pair.buffers[self.index].data
        self.places = places
        self._parts = [self.whole[place] for place in places]
        self.revoked = False
        # For readers that take pieces: how many bytes so far, and at the last look.
        self.taken = self.seen = 0
        self.movable = False
        self._piece = threading.Lock()

    @property
    def buffer(self) -> memoryview:
        """The version; a copy only if its parts do not lie side by side."""
        return self._parts[0] if len(self._parts) == 1 else memoryview(b"".join(self._parts))

    @contextmanager
    def piece(self, start: int, most: int) -> Iterator[tuple[memoryview, Callable[[], None]]]:
        """Yield a piece of at most so many bytes, and a function that gives it back before the block ends.

        Between two pieces a push may move the reading to a copy, so a piece is not kept for long.

        Raises:
            UnreachableError: too many readers of further versions were faster.
        """
        with ExitStack() as held:
            held.enter_context(self._piece)
            if self.revoked:
                raise UnreachableError(f"{self.header.shard}: this reader takes too little; pull again")
            piece = self._cut(start, most)
            yield piece, held.close
            self.taken += len(piece)

    def _cut(self, start: int, most: int) -> memoryview:
        for part in self._parts:
            if start < len(part):
                return part[start : start + most]
            start -= len(part)
        raise AssertionError(f"{start} lies beyond the version")

    def move(self, copy: memoryview) -> None:
        """Go on with a copy of the buffer, which pushes may overwrite now."""
        with self._piece:
            self.index, self._parts = -1, [copy[place] for place in self.places]

    def revoke(self) -> None:
        """End the reading of a copy, whose memory is needed."""
        with self._piece:
            self.revoked, self._parts = True, []

    def release(self) -> None:
        """Give the buffer up for pushes; further calls do nothing."""
        if self.movable:
            self._parts = []
        with self._shard.readers_left:
            self._shard.readings.discard(self)
            self._shard.readers_left.notify_all()


class Shard:
    """Shard with its readers and pushing slaves; the push under way holds `writing`."""

    def __init__(self, pair: BufferPair, policy: Policy) -> None:
        self.pair = pair
        self.policy = policy
        self.regions = updates.regions(pair.table)
        self.gaps = updates.gaps(self.regions)
        self.writing = threading.Lock()
        self.readers_left = threading.Condition()
        self.readings: set[Reading] = set()
        self._copies: list[list[Reading]] = []
        # For staleness: the version that each slave fetched last, and the number of its pushes since.
        self.fetched: dict[int, int] = {}
        self.own_since: Counter[int] = Counter()
        # For compensation: parameters of fetched versions that the buffers no longer hold.
        self._kept: dict[int, Bytes] = {}
        self.share_frozen()

    def share_frozen(self) -> None:
        """Copy the frozen tensors into the idle buffer; no push has them, and each makes the idle active."""
        frozen = slice(self.pair.table.pushed.nbytes, self.pair.table.nbytes)
        if frozen.start < frozen.stop:
            self.claim_idle()[frozen] = self.pair.buffers[self.pair.record.active][frozen]

    def move_average(self, progress: Progress) -> None:
        """Move the average towards a push's result in the idle buffer, which is claimed.

        Args:
            progress: of the shard after the push.

        Raises:
            MalformedError: the average would not be finite.
        """
        policy, record = self.policy, self.pair.record
        if policy.average:
            active, idle = self.pair.buffers[record.active], self.pair.buffers[1 - record.active]
            policy.average.move(self.pair.table, policy.moments, active, idle, record.progress, progress)

    def note_fetch(self, incarnation: int) -> None:
        """Note that a slave fetches the present version; the caller holds `readers_left`."""
        self.fetched[incarnation] = self.pair.record.version
        self.own_since[incarnation] = 0

    def forget(self, incarnation: int) -> None:
        """Drop a departed slave's state; the caller holds `readers_left`."""
        self.fetched.pop(incarnation, None)
        self.own_since.pop(incarnation, None)
        self._drop_unwanted()

    def forget_all(self) -> None:
        """Drop every slave's state; the caller holds `readers_left`."""
        self.fetched.clear()
        self.own_since.clear()
        self._drop_unwanted()

    def claim_idle(self) -> Bytes:
        """Wait until no reader holds the idle buffer, and return the buffer.

        Readers over the network are not waited for: they go on with a copy.
        """
        idle = 1 - self.pair.record.active
        with self.readers_left:
            self.readers_left.wait_for(lambda: not self._held(idle), PROMPT_SECONDS)
            self._move([reading for reading in self._held(idle) if reading.movable], idle)
            self.readers_left.wait_for(lambda: not self._held(idle), READER_SECONDS)
            for reading in self._held(idle):
                reading.revoked = True
                self.readings.discard(reading)
        if self.policy.rule.compensates and self.policy.optimizer:
            self._keep(idle)
        return self.pair.buffers[idle]

    def _move(self, readings: list[Reading], idle: int) -> None:
        """Move readers to a copy of the idle buffer; the caller holds `readers_left`."""
        if not readings:
            return
        self._drop_copies()
        end = max(place.stop for reading in readings for place in reading.places)
        copy = self.pair.buffers[idle][:end].copy().data
        for reading in readings:
            reading.move(copy)
        self._copies.append(readings)

    def _drop_copies(self) -> None:
        """Drop copies without readers, and make room for one more."""
        self._copies = [kept for each in self._copies if (kept := [r for r in each if r in self.readings])]
        if len(self._copies) >= MOST_COPIES:
            slowest = min(self._copies, key=lambda each: max(r.taken - r.seen for r in each))
            self._copies.remove(slowest)
            for reading in slowest:
                reading.revoke()
                self.readings.discard(reading)
        for each in self._copies:
            for reading in each:
                reading.seen = reading.taken

    def _held(self, index: int) -> list[Reading]:
        return [reading for reading in self.readings if reading.index == index]

    def _keep(self, idle: int) -> None:
        """Copy the idle buffer's version before a push overwrites it, if a slave fetched it last."""
        version = self.pair.record.version - 1
        with self.readers_left:
            self._drop_unwanted()
            wanted = version in self.fetched.values() and version not in self._kept
        if wanted:
            copy = self.pair.buffers[idle][: self.pair.table.parameters_nbytes].copy()
            with self.readers_left:
                self._kept[version] = copy
                self._drop_unwanted()

    def _drop_unwanted(self) -> None:
        wanted = set(self.fetched.values())
        self._kept = {version: kept for version, kept in self._kept.items() if version in wanted}

    def find_fetched(self, incarnation: int) -> Bytes | None:
        """Parameters that a slave fetched last; None if unknown, or still the present parameters."""
        with self.readers_left:
            return self._kept.get(self.fetched.get(incarnation, -1))

    def staleness(self, header: Header) -> int:
        """Staleness of a push: versions since the sender's last fetch, minus the sender's own pushes.

        A restarted master has seen no fetch, and takes the header's word.
        """
        with self.readers_left:
            fetched, own = self.fetched.get(header.incarnation), self.own_since[header.incarnation]
            if fetched is None:
                fetched, own = header.version, header.sequence - 1 - header.fetched_sequence
            return max(0, self.pair.record.version - fetched - max(0, own))
