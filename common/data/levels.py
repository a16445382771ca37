"""Levels of a run's batches, where examples become harder: a list that only grows. Imports no torch.

Levels change at multiples of `BLOCK` batches. The level of block j + 2 follows from the loss in block j, so
that slaves may go through block j + 1 while the master decides.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from common.config.data import BLOCK
from common.errors import MalformedError
from common.wire.curriculum import Curriculum

# Blocks that have a level before the first is through, and the fewest of a level.
AHEAD = 2
# Levels of a data set; a run stays at the last.
MOST_LEVELS = 120


@dataclass(frozen=True)
class Levels:
    """Levels decided so far.

    Attributes:
        starts: first batch of each level, the first 0.
        decided: number of batches from the run's first on whose level is decided.
    """

    starts: tuple[int, ...] = (0,)
    decided: int = AHEAD * BLOCK

    @property
    def source(self) -> int:
        """Number of the block from whose loss the next undecided level follows."""
        return self.decided // BLOCK - AHEAD

    @property
    def solved(self) -> int:
        """Number of levels that the network has solved."""
        return len(self.starts) - 1

    def number(self, batch: int) -> int:
        """Return the number of batch b's level, from 0; of undecided batches the last level's."""
        return bisect_right(self.starts, batch) - 1

    def extended(self, *, solved: bool) -> Levels:
        """Return the levels with one more block.

        Args:
            solved: whether the loss in the block `source` is low enough for a harder level.
        """
        harder = solved and self.number(self.source * BLOCK) == self.solved and self.solved + 1 < MOST_LEVELS
        starts = (*self.starts, self.decided) if harder else self.starts
        return Levels(starts, self.decided + BLOCK)

    def to_message(self) -> Curriculum:
        """Return the levels as a message."""
        return Curriculum([*self.starts], self.decided)

    @staticmethod
    def of(message: Curriculum) -> Levels:
        """Return the levels of a message.

        Raises:
            MalformedError: the list cannot be that of a run.
        """
        starts, decided = message.starts, message.decided
        multiples = all(batch % BLOCK == 0 for batch in (*starts, decided))
        long = all(later - earlier >= AHEAD * BLOCK for earlier, later in pairwise(starts))
        whole = 0 < len(starts) <= MOST_LEVELS and starts[0] == 0 and starts[-1] < decided
        if not (multiples and long and whole and decided >= AHEAD * BLOCK):
            raise MalformedError(
                f"levels that begin at the batches {starts!r:.80}, up to batch {decided}, are those of no run"
                "; do all processes have the same version of layerwise?"
            )
        return Levels(tuple(starts), decided)
