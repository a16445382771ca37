"""Loss of layer K by block, from which the levels of later blocks follow. No I/O."""

from __future__ import annotations

import math

from torch import Tensor

from common.config.data import BLOCK
from common.data.batches import Batches
from common.data.replicas import BatchRoutes
from common.tasks import Task
from common.wire.curriculum import Score

# Most blocks of a report: a successor may be through many that the master has not decided on.
MOST_SCORES = 16


class Scores:
    """Losses of a replica of layer K, by block, until the master has decided on the block.

    Args:
        task: of the run.
        batches: source of the decided levels.
        routes: of batches through the replica.
        next_batch: first batch not seen by the layer's weights.
    """

    def __init__(self, task: Task, batches: Batches, routes: BatchRoutes, next_batch: int) -> None:
        self._task = task
        self._batches = batches
        self._routes = routes
        # Sum in nats and number of answers, by block.
        self._sums: dict[int, tuple[float, int]] = {}
        self._through = 0
        self.pass_to(next_batch)

    def note(self, batch: int, output: Tensor, target: Tensor) -> None:
        """Add the loss of a batch."""
        sums, block = self._task.tally(output, target), batch // BLOCK
        nats, answers = self._sums.get(block, (0.0, 0))
        self._sums[block] = nats + sums["loss"], answers + int(sums["count"])

    def pass_to(self, next_batch: int) -> bool:
        """Take the first batch that the layer lacks; True: the replica is through a further block."""
        through = self._routes.next_own(next_batch) // BLOCK
        further, self._through = through > self._through, through
        return further

    def report(self) -> list[Score]:
        """Return the scores of the blocks that the replica is through, and forget decided ones."""
        levels = self._batches.levels
        assert levels is not None
        self._sums = {block: sums for block, sums in self._sums.items() if block >= levels.source}
        blocks = range(levels.source, self._through)[:MOST_SCORES]
        return [self._score(block) for block in blocks]

    def _score(self, block: int) -> Score:
        nats, answers = self._sums.get(block, (0.0, 0))
        return Score(block, nats / math.log(2), answers)
