"""Levels of a run's batches, decided from the loss that layer K reports. Decides; no I/O, no clock.

A decision is durable before a slave hears of it, and is never taken back, not even by a rollback: batch b is
the same for every process at every time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.data.levels import Levels
from common.wire.curriculum import Curriculum, Score
from common.wire.ranges import restore

# A level is solved when an answer costs fewer bits than this in a block (Jaderberg et al. 2016, section 3.1).
SOLVED = 0.15
# Blocks of which scores are kept, from the one on which the next level depends.
MOST_KEPT = 16


def decide(levels: Levels, scores: Iterable[Score]) -> Levels:
    """Decide the level of the next block.

    Args:
        levels: decided so far.
        scores: of all replicas of layer K in the block `levels.source`. The level stays where nobody has an
            answer, or the loss is NaN.
    """
    told = [*scores]
    bits, answers = sum(score.bits for score in told), sum(score.answers for score in told)
    return levels.extended(solved=answers > 0 and bits / answers < SOLVED)


@dataclass
class Grading:
    """Levels of a run, and the scores on which the next levels depend.

    The scores need not outlive the master: slaves report a block until its decision is known to them.

    Attributes:
        replicas: of layer K.
        levels: decided so far.
    """

    replicas: int
    levels: Levels = field(default_factory=Levels)
    # Block -> replica -> score.
    _scores: dict[int, dict[int, Score]] = field(default_factory=lambda: defaultdict(dict))

    @staticmethod
    def restore(replicas: int, saved: Mapping[str, Any]) -> Grading:
        """Restore the levels of an earlier master's `dump`; empty at the run's beginning.

        Raises:
            MalformedError: the levels are those of no run.
        """
        kept = saved.get("curriculum")
        return Grading(replicas, Levels.of(restore(Curriculum, kept)) if kept else Levels())

    def dump(self) -> dict[str, Any]:
        """Values that must outlive the master, plain for JSON."""
        return {"curriculum": {"starts": [*self.levels.starts], "decided": self.levels.decided}}

    def hear(self, replica: int, scores: Iterable[Score]) -> bool:
        """Take the scores of a replica of layer K; True: a level was decided.

        The level of a block is decided once every replica is through the block two before. A successor that
        knows less than its predecessor has reported changes nothing.
        """
        first, before = self.levels.source, self.levels
        for score in scores:
            if first <= score.block < first + MOST_KEPT:
                known = self._scores[score.block].get(replica)
                if known is None or known.answers < score.answers:
                    self._scores[score.block][replica] = score
        while len(self._scores.get(self.levels.source, ())) == self.replicas:
            self.give_up()
        return self.levels != before

    def give_up(self) -> None:
        """Decide the level of the next block from what is known of the block two before."""
        source = self.levels.source
        self.levels = decide(self.levels, self._scores.pop(source, {}).values())
        self._scores = defaultdict(dict, {b: s for b, s in self._scores.items() if b > source})

    def awaited(self, next_batch: int) -> bool:
        """Whether a slave that has gone through the batches before `next_batch` waits for a level."""
        return next_batch >= self.levels.decided

    def describe(self, before: Levels) -> list[dict[str, Any]]:
        """Return a line for the event log for each level that has begun since `before`."""
        return [
            {"event": "level", "level": number + 1, "batch": start}
            for number, start in enumerate(self.levels.starts)
            if number >= len(before.starts)
        ]


def announce(grading: Grading | None) -> Curriculum:
    """Return the levels of a run as a message; empty where no example becomes harder."""
    return grading.levels.to_message() if grading else Curriculum()
