"""Change of the number of replicas while a run goes on. Decides; no I/O, no clock.

Once enough slaves are there, every slave is asked how far it has come, and promises to begin no further
batch. The next stage begins behind the farthest promise. Its first batch is durable before a slave hears of
it, and no slave has begun it: layers end there as at the run's end, with every batch before it trained on and
pushed. Then every slave gives its lease back, and the seats of the next stage are dealt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from common.config.resizing import resized
from common.config.sections import Config
from common.data.stages import Stages, count_own
from common.errors import ConfigError, RefusedError
from common.wire.ranges import COUNT, Range, restore
from common.wire.stages import Promise, ResizeReply, Resizing, Stage
from master.balance import GIVE_UP_BEATS, Balance
from master.roster import Roster
from master.seating import Seating


class Shards(Protocol):
    """Progress of the run's shards."""

    def next_batch(self, name: str, replica: int | None = None) -> int:
        """First batch that a shard lacks, of a replica or of all."""


class Change:
    """Stages of a run, and the change to the next. Times are seconds of a monotonic clock.

    Args:
        config: resolved configuration; has the replicas of the first stage.
        saved: values from an earlier master's `dump`; empty at the run's beginning.

    Attributes:
        stages: announced so far.
        present: number of the stage that is trained.
        wanted: R of each layer, asked for and not announced yet; None: no change is asked for.
        balance: asks for replicas by itself; None: only operators do.
    """

    def __init__(self, config: Config, saved: Mapping[str, Any]) -> None:
        self._config = config
        self._patience = GIVE_UP_BEATS * config.cluster.heartbeat_seconds
        self.stages, self.present = Stages.first(config.replicas), 0
        self.wanted: tuple[int, ...] | None = None
        # Number of the present question to the slaves, 0 for none; and the number of questions so far.
        self._question = self._questions = 0
        # First batch that a slave has not begun, by incarnation.
        self._promised: dict[int, int] = {}
        # First batches that no slave has seen, while a slave is missing, and the time since when they are so.
        self._stood: tuple[object, float] | None = None
        # Whether a layer had passed the run's batches at the last question: no further change by itself.
        self._late = False
        most = config.downpour.replicas_max
        self.balance = Balance(config, most) if most else None
        if "stages" in saved:
            self._restore(saved["stages"])

    def _restore(self, saved: Mapping[str, Any]) -> None:
        messages = [restore(Stage, stage) for stage in saved["announced"]]
        self.stages = Stages.of(messages, self._config.layers)
        Range(0, len(messages) - 1).check(saved["present"], "the number of the saved stage")
        COUNT.check(saved["questions"], "the saved number of questions")
        self.present, self._questions = saved["present"], saved["questions"]
        self.wanted = tuple(saved["wanted"]) if saved["wanted"] else None
        if saved.get("by_hand"):
            self.balance = None

    def dump(self) -> dict[str, Any]:
        """Values that must outlive the master, plain for JSON."""
        return {
            "stages": {
                "announced": [
                    {"start": stage.start, "replicas": stage.replicas} for stage in self.stages.to_messages()
                ],
                "present": self.present,
                "questions": self._questions,
                "wanted": [*self.wanted] if self.wanted else None,
                "by_hand": self._by_hand,
            }
        }

    @property
    def _by_hand(self) -> bool:
        """Whether an operator has asked for a number, which stays."""
        return self.balance is None and self._config.downpour.replicas_max is not None

    @property
    def replicas(self) -> tuple[int, ...]:
        """R of each layer in the present stage."""
        return self.stages.replicas[self.present]

    @property
    def start(self) -> int:
        """First batch of the present stage."""
        return self.stages.starts[self.present]

    @property
    def end(self) -> int | None:
        """First batch behind the present stage; None: the run's end."""
        return self.stages.end(self.present)

    @property
    def newest(self) -> tuple[int, ...]:
        """R of each layer in the stage that was announced last."""
        return self.stages.replicas[-1]

    @property
    def hold(self) -> int:
        """Number of the question that slaves answer by a promise; 0: none."""
        return self._question

    def want(self, replicas: Sequence[int], roster: Roster) -> list[dict[str, Any]]:
        """Take a request for other replicas, of every layer or by layer; returns lines for the event log.

        Raises:
            RefusedError: the run cannot have these replicas, or not in the place of those announced.
        """
        try:
            counts = tuple(resized(self._config, replicas).replicas)
        except ConfigError as error:
            raise RefusedError(str(error)) from None
        if self.end is not None and counts != self.newest:
            self._replace(counts, roster)
        elif counts == (self.wanted or self.newest) and self.balance is None:
            return []
        elif self.end is None:
            self.wanted, self._question = (None if counts == self.newest else counts), 0
        self.balance = None
        return [{"event": "resize", "replicas": [*counts]}]

    def _replace(self, counts: tuple[int, ...], roster: Roster) -> None:
        """Put other replicas in the place of those announced, whose seats are not dealt yet.

        Raises:
            RefusedError: slaves are missing, so that the announced batch would wait for them.
        """
        there = roster.there()
        if sum(counts) > there:
            newest, asked = (" ".join(map(str, each)) for each in (self.newest, counts))
            raise RefusedError(
                f"resize: the change to {newest} from batch {self.end:,} on is under way, and {asked} takes "
                f"{sum(counts)} slaves, of which {there} are there; ask again once layerwise status shows "
                "that the change is done"
            )
        self.stages = self.stages.with_last(counts)

    def hear(self, incarnation: int, promise: Promise) -> None:
        """Take a slave's answer to the present question."""
        if promise.question and promise.question == self._question:
            self._promised.setdefault(incarnation, promise.batch)

    def missing(self, roster: Roster) -> int:
        """Return the number of slaves without which a change that is asked for does not begin."""
        counts = self.newest if self.end else self.wanted or self.replicas
        return max(0, sum(counts) - roster.there())

    def advance(self, roster: Roster, shards: Shards, now: float) -> list[dict[str, Any]]:
        """Take the next step of a change, if one is due; returns lines for the event log.

        The caller deals the seats of the next stage once `present` has changed.
        """
        if self.end is not None:
            return self._end_stage(roster, shards, now)
        if self.wanted is None:
            return self._propose(roster, now)
        if self.balance is not None and not self._question and self.missing(roster):
            # The slaves that it was proposed for have gone.
            self.wanted = None
            return [{}]
        return self._announce(roster, shards) if self._question else self._ask(roster)

    def _propose(self, roster: Roster, now: float) -> list[dict[str, Any]]:
        """Ask for the replicas that fit the slaves which are there, where the run does so by itself."""
        if self.balance is None or roster.over:
            return []
        counts = self.balance.propose(self.replicas, roster.seating, roster.waiting(), now)
        if counts == self.replicas or sum(counts) > roster.there() or self._late:
            return []
        self.wanted = counts
        return [{"event": "resize", "replicas": [*counts], "why": "by itself"}]

    def _ask(self, roster: Roster) -> list[dict[str, Any]]:
        if self.missing(roster) or roster.over:
            return []
        self._questions += 1
        self._question, self._promised = self._questions, {}
        # A number that a slave has heard is never used again.
        return [{}]

    def _announce(self, roster: Roster, shards: Shards) -> list[dict[str, Any]]:
        """Announce the next stage, once every slave has promised to begin nothing beyond."""
        assert self.wanted is not None
        holders = roster.seating.holders()
        if any(incarnation not in self._promised for incarnation in holders):
            return []
        # A slave that has failed may have begun more than it has told, and pushed more.
        gone = roster.seating.vacant()
        vacant = [lease.reached for lease in gone]
        vacant += [shards.next_batch(f"{lease.layer}/weights", lease.replica) for lease in gone]
        # Also of slaves that have died since: layers above may have heard of their batches.
        promised = [*self._promised.values()]
        start = max([*vacant, *promised, self.start + 1])
        wanted, self.wanted, self._question = self.wanted, None, 0
        if start >= self._config.run.batches:
            self._late = True
            return [{"event": "resize", "replicas": [*self.replicas], "why": "the run is about to end"}]
        self.stages = self.stages.extended(start, wanted)
        roster.seating.last = False
        return [{"event": "stage announced", "batch": start, "replicas": [*wanted]}]

    def _end_stage(self, roster: Roster, shards: Shards, now: float) -> list[dict[str, Any]]:
        """End the present stage once all seats are done, or a slave is awaited in vain."""
        assert self.end is not None
        seating = roster.seating
        if seating.passed or self._in_vain(roster, now):
            seating.close()
        if not seating.closing or seating.holders():
            return []
        lost = self._give_up(seating, shards)
        self.present += 1
        self._stood = None
        line = {"event": "stage", "batch": self.start, "replicas": [*self.replicas]}
        return [{**line, "lost_batches": lost} if lost else line]

    def _in_vain(self, roster: Roster, now: float) -> bool:
        """Whether a seat lacks a slave, and no other slave has got further for long."""
        if not roster.seating.vacant() or roster.waiting() or not roster.seating.holders():
            self._stood = None
            return False
        reached = roster.seating.reached()
        if self._stood is None or self._stood[0] != reached:
            self._stood = reached, now
        return now - self._stood[1] > self._patience

    def _give_up(self, seating: Seating, shards: Shards) -> int:
        """Count the batches of the present stage that a seat will never train on as lost."""
        assert self.end is not None
        lost = 0
        for lease in seating.leases:
            if not lease.done:
                first = shards.next_batch(f"{lease.layer}/weights", lease.replica)
                counts = self.replicas[lease.layer - 1], self._config.downpour.warm_start
                own = count_own(first, self.end, lease.replica, *counts)
                seating.give_up(lease, own)
                lost += own
        return lost

    def rewind(self, saved: Mapping[str, Any]) -> bool:
        """Go back to the stage of a snapshot; the newest replicas, announced or not, are wanted anew.

        Return whether the snapshot knew of no later stage.

        Args:
            saved: values kept with the snapshot; empty: the run begins anew.
        """
        newest = self.wanted or self.newest
        earlier = Change(self._config, saved)
        self.present, self.stages = earlier.present, earlier.stages.through(earlier.present)
        self.wanted = newest if newest != self.replicas else None
        self._question, self._stood, self._late = 0, None, False
        return earlier.end is None

    def describe(self, roster: Roster) -> Resizing:
        """Return the change that is under way, as a message."""
        counts = self.newest if self.end else self.wanted
        return Resizing([*counts], self.missing(roster), self.end or 0) if counts else Resizing()

    def reply(self, roster: Roster) -> ResizeReply:
        """Return the answer to a request for other replicas."""
        return ResizeReply([*self.replicas], self.describe(roster))
