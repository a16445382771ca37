"""One shard: where it lies, what is committed of it, and who reads it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from common.shards.pushes import Header
from common.shards.table import Table
from master.store import updates
from master.store.optimizers import Bytes
from master.store.policies import Policy

# How long a push waits for a reader that holds the idle buffer; then that reader has to begin again.
READER_SECONDS = 2.0


@dataclass(frozen=True)
class Record:
    """What a commit makes true of a shard.

    Attributes:
        version: how many pushes were applied.
        active: which of the two buffers is the shard.
        progress: of each replica, the first batch that it has not brought in.
        sequences: of each slave the last push that was applied or refused.
        steps: how many steps the master's optimizer has taken.
        refused: the slaves whose last push was refused.
    """

    version: int = 0
    active: int = 0
    progress: dict[int, int] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    steps: int = 0
    refused: list[int] = field(default_factory=list)

    def next_batch(self, replicas: int) -> int:
        """The first batch that may not be in it: where the slowest of R replicas is."""
        return min(self.progress.get(replica, 0) for replica in range(replicas))


class Slots(Protocol):
    """Where one shard lies: two buffers and the last committed record.

    Each buffer holds the table's tensors, then what an optimizer remembers of them.
    """

    table: Table
    buffers: tuple[Bytes, Bytes]
    record: Record

    def commit(self, record: Record) -> None:
        """Make the record true, at once or not at all."""


class Reading:
    """One version of a shard, held for a reader until `release`; `revoked` once it must begin again."""

    def __init__(self, shard: Shard, header: Header) -> None:
        self._shard = shard
        self.index = shard.slots.record.active
        self.header = header
        self.record = shard.slots.record
        # With what an optimizer remembers, and without.
        self.whole = shard.slots.buffers[self.index].data
        self.buffer = self.whole[: header.table.nbytes]
        self.revoked = False

    def release(self) -> None:
        """Let pushes have the buffer; more than once does no harm."""
        with self._shard.readers_left:
            self._shard.readings.discard(self)
            self._shard.readers_left.notify_all()


class Shard:
    """A shard and what is known of those who use it. `writing` is held by the one push that is under way."""

    def __init__(self, slots: Slots, policy: Policy) -> None:
        self.slots = slots
        self.policy = policy
        self.regions = updates.regions(slots.table)
        self.gaps = updates.gaps(self.regions)
        self.writing = threading.Lock()
        self.readers_left = threading.Condition()
        self.readings: set[Reading] = set()
        # What each slave last fetched, and how many of its own pushes came since: for staleness.
        self.fetched: dict[int, int] = {}
        self.own_since: Counter[int] = Counter()
        # Parameters by version: what slaves fetched and the buffers no longer hold, for compensation alone.
        self._kept: dict[int, Bytes] = {}

    def note_fetch(self, incarnation: int) -> None:
        """A slave takes the present version; the caller holds `readers_left`."""
        self.fetched[incarnation] = self.slots.record.version
        self.own_since[incarnation] = 0

    def forget(self, incarnation: int) -> None:
        """A slave is gone; the caller holds `readers_left`."""
        self.fetched.pop(incarnation, None)
        self.own_since.pop(incarnation, None)
        self._drop_unwanted()

    def forget_all(self) -> None:
        """Every slave is gone; the caller holds `readers_left`."""
        self.fetched.clear()
        self.own_since.clear()
        self._drop_unwanted()

    def claim_idle(self) -> Bytes:
        """The idle buffer, once no reader holds it."""
        idle = 1 - self.slots.record.active
        with self.readers_left:
            self.readers_left.wait_for(lambda: not self._held(idle), READER_SECONDS)
            for reading in self._held(idle):
                reading.revoked = True
                self.readings.discard(reading)
        if self.policy.rule.compensates and self.policy.optimizer:
            self._keep(idle)
        return self.slots.buffers[idle]

    def _held(self, index: int) -> list[Reading]:
        return [reading for reading in self.readings if reading.index == index]

    def _keep(self, idle: int) -> None:
        """Copy the version that a push is about to overwrite, if it is what a slave last fetched."""
        version = self.slots.record.version - 1
        with self.readers_left:
            self._drop_unwanted()
            wanted = version in self.fetched.values() and version not in self._kept
        if wanted:
            copy = self.slots.buffers[idle][: self.slots.table.parameters_nbytes].copy()
            with self.readers_left:
                self._kept[version] = copy
                self._drop_unwanted()

    def _drop_unwanted(self) -> None:
        wanted = set(self.fetched.values())
        self._kept = {version: kept for version, kept in self._kept.items() if version in wanted}

    def kept(self, incarnation: int) -> Bytes | None:
        """The parameters that a slave last fetched; None if they are not known, or are the present ones."""
        with self.readers_left:
            return self._kept.get(self.fetched.get(incarnation, -1))

    def staleness(self, header: Header) -> int:
        """What others did since that slave last fetched: the version less that, less its own pushes since.

        A master that was started anew has seen no fetch and takes the slave's word for it.
        """
        with self.readers_left:
            fetched, own = self.fetched.get(header.incarnation), self.own_since[header.incarnation]
            if fetched is None:
                fetched, own = header.version, header.sequence - 1 - header.fetched_sequence
            return max(0, self.slots.record.version - fetched - max(0, own))
