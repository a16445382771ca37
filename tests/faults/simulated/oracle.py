"""Promises of a run, held against the truth that the simulation alone knows.

Every incarnation writes to a slot of its own; the sum in the slot tells which of its pushes the master has.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from common.shards.pushes import Operation, PushReply
from common.shards.working_copy import Push
from common.wire.messages import JoinReply
from master.roster import Roster
from master.store.store import Store
from tests.faults.simulated.layers import SLOTS

LOST, TWICE = "acknowledged pushes lost", "pushes applied twice"
FENCED, REPEATED = "fenced writes accepted", "incarnations repeated"
UNEXPLAINED = "standstills without a problem"
UNFINISHED, FAILED = "runs that did not end", "processes that failed"
PROMISES = (LOST, TWICE, FENCED, REPEATED, UNEXPLAINED, UNFINISHED, FAILED)

Writer = tuple[str, int]


@dataclass
class Sent:
    """Push that a slave has sent.

    Attributes:
        sequence: of the push.
        amount: change of the slave's slot.
        answer: "applied" or "refused", once an answer has left the master.
    """

    sequence: int
    amount: int
    answer: str = ""


@dataclass
class Oracle:
    """Record of grants, pushes and answers.

    Attributes:
        violations: broken promises with their number.
        details: a line for each broken promise.
        may_lose: pushes may have been given up since the last check: a power cut, rollback or repair.
        acknowledged: pushes whose answer has left the master.
        applied: those among them that were applied, even if a rollback has undone them since.
        given_up: acknowledged pushes that are undone.
    """

    violations: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    may_lose: bool = False
    acknowledged: int = 0
    applied: int = 0
    given_up: int = 0
    _granted: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    _slots: dict[int, int] = field(default_factory=dict)
    _sent: dict[Writer, list[Sent]] = field(default_factory=lambda: defaultdict(list))
    _ended: set[int] = field(default_factory=set)
    # Acknowledged pushes that the newest snapshot has at least.
    _kept: dict[Writer, int] = field(default_factory=dict)

    def blame(self, promise: str, detail: str) -> None:
        """Count a broken promise."""
        self.violations[promise] += 1
        self.details.append(f"{promise}: {detail}")

    def granted(self, slave: str, reply: JoinReply) -> None:
        """Note a grant that has left the master."""
        if not reply.granted:
            return
        holder = (slave, reply.layer, reply.replica)
        known = self._granted.setdefault(reply.incarnation, holder)
        if known != holder:
            self.blame(REPEATED, f"incarnation {reply.incarnation} went to {known} and {holder}")

    def slot(self, incarnation: int) -> int:
        """Slot of an incarnation, from its session's start on."""
        slot = self._slots.setdefault(incarnation, len(self._slots))
        assert slot < SLOTS, "the run has too many incarnations for the slots"
        return slot

    def sent(self, push: Push) -> None:
        """Note a push that leaves a slave for the first time."""
        if push.header.operation is Operation.CREATE:
            return
        numbers = push.buffer.view(np.float32)
        amount = int(numbers[self._slots[push.header.incarnation]])
        assert amount == numbers.sum(), "a slave has changed the slot of another"
        self._sent[_writer(push)].append(Sent(push.header.sequence, amount))

    def answered(self, push: Push, reply: PushReply) -> None:
        """Note an answer that leaves the master."""
        header = push.header
        if header.operation is Operation.CREATE:
            return
        found = [sent for sent in self._sent[_writer(push)] if sent.sequence == header.sequence]
        if reply.applied and header.incarnation in self._ended:
            self.blame(FENCED, f"{header.shard}: push {header.sequence} of incarnation {header.incarnation}")
        if not found:
            # Given up with an earlier state of the master; the sender is fenced.
            return
        (sent,) = found
        if reply.applied and sent.answer:
            self.blame(TWICE, f"{header.shard}: push {header.sequence} of incarnation {header.incarnation}")
        if not sent.answer:
            self.acknowledged += 1
            self.applied += reply.applied
            sent.answer = "refused" if reply.refused else "applied"

    def settled(self, roster: Roster) -> None:
        """Note the leases after the master has carried an input out: all others have ended."""
        held = {seat.incarnation for seat in roster.seats(0.0)}
        self._ended |= self._granted.keys() - held

    def mark(self) -> dict[Writer, int]:
        """Number of acknowledged pushes, by writer, at the start of a snapshot."""
        return {writer: sum(1 for sent in all_sent if sent.answer) for writer, all_sent in self._sent.items()}

    def kept(self, mark: dict[Writer, int]) -> None:
        """Note a snapshot that is complete."""
        self._kept = mark

    def check(self, store: Store, when: str) -> None:
        """Hold the shards' contents against the pushes."""
        contents = {name: read_numbers(store, name) for name in store.versions()}
        versions: Counter[str] = Counter()
        for writer, all_sent in self._sent.items():
            shard, incarnation = writer
            numbers = contents.get(shard)
            value = 0 if numbers is None else int(numbers[self._slots[incarnation]])
            versions[shard] += self._check_writer(writer, all_sent, value, when)
        for shard, numbers in contents.items():
            known = [slot for incarnation, slot in self._slots.items() if (shard, incarnation) in self._sent]
            if numbers.sum() != numbers[known].sum():
                self.blame(TWICE, f"{when}: {shard} holds numbers that nobody pushed")
            if store.versions()[shard] != versions[shard]:
                self.blame(TWICE, f"{when}: {shard} is {store.versions()[shard]}, not {versions[shard]}")
        self.may_lose = False

    def _check_writer(self, writer: Writer, all_sent: list[Sent], value: int, when: str) -> int:
        """Check a slot; returns the number of applied pushes."""
        applied = [sent for sent in all_sent if sent.answer != "refused"]
        sums = list(accumulate((sent.amount for sent in applied), initial=0))
        unknown = sum(1 for sent in applied if not sent.answer)
        answered = len(applied) - unknown
        if value in sums[answered:]:
            return sums.index(value)
        if value not in sums:
            more = value > sums[-1]
            self.blame(TWICE if more else LOST, f"{when}: {writer} has {value}, not one of {sums}")
            return 0
        left = sums.index(value)
        refused = sum(1 for sent in all_sent if sent.answer == "refused")
        if not self.may_lose or left + refused < self._kept.get(writer, 0):
            self.blame(LOST, f"{when}: {writer} has {left} of {answered}, kept {self._kept.get(writer, 0)}")
        self.given_up += answered - left
        gone = applied[left:]
        self._sent[writer] = [sent for sent in all_sent if sent not in gone]
        self._kept[writer] = min(self._kept.get(writer, 0), left + refused)
        return left


def read_numbers(store: Store, shard: str) -> np.ndarray:
    """Copy the numbers of a shard."""
    reading = store.read(shard)
    try:
        return np.frombuffer(bytes(reading.buffer), np.float32)
    finally:
        reading.release()


def _writer(push: Push) -> Writer:
    return push.header.shard, push.header.incarnation
