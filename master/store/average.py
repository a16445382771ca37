"""Average of a layer's weights, kept beside the weights in both buffers of the shard.

The average lies behind the server optimizer's moments, so one commit covers weights, moments and average of a
push. Readers get the average in the place of the parameters, under the name k/average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.shards import average
from common.shards.table import Table, align
from master.store.optimizers import ALIGNMENT, Bytes, Floats, room
from master.store.updates import PIECE_BYTES, check_numbers

# First missing batch, by replica.
Progress = Mapping[int, int]


@dataclass(frozen=True)
class Averaging:
    """Average of the weights of a layer with R replicas.

    A push moves the average by the batches that the push adds to those of the layer, so that the average is
    one over batches, whatever the number of steps in a push and of replicas.

    Attributes:
        horizon: as in `common.shards.average.share`.
        replicas: R.
        warm_start: batches that replica 0 trains alone at first.
        start: first batch of these replicas; the layer has seen all before.
    """

    horizon: int
    replicas: int = 1
    warm_start: int = 0
    start: int = 0

    def count(self, progress: Progress) -> float:
        """Return the batches that a layer has seen."""
        reached = [max(progress.get(replica, 0), self.start) for replica in range(self.replicas)]
        alone = max(self.warm_start, self.start)
        shared = sum(max(batch - alone, 0) for batch in reached)
        return min(reached[0], alone) + shared / self.replicas

    def begin(self, table: Table, moments: int, buffer: Bytes) -> None:
        """Let the average of a new shard be the initial weights."""
        np.copyto(_numbers(table, buffer, place(table, moments)), _numbers(table, buffer, slice(0, None)))

    def move(
        self, table: Table, moments: int, active: Bytes, idle: Bytes, before: Progress, after: Progress
    ) -> None:
        """Write the average that follows a push, whose weights are in the idle buffer.

        Args:
            table: of the shard.
            moments: of the server optimizer.
            active: buffer before the push, only read.
            idle: buffer after the push.
            before: progress of the shard before the push.
            after: progress after the push.

        Raises:
            MalformedError: the average would not be finite.
        """
        part = average.share(self.count(before), self.count(after), self.horizon)
        there = place(table, moments)
        old, new = _numbers(table, active, there), _numbers(table, idle, there)
        weights = _numbers(table, idle, slice(0, None))
        for start in range(0, weights.size, PIECE_BYTES // 4):
            piece = slice(start, start + PIECE_BYTES // 4)
            with np.errstate(over="ignore", invalid="ignore"):
                average.move(old[piece], weights[piece], part, out=new[piece])
            check_numbers(new[piece])


def place(table: Table, moments: int) -> slice:
    """Return the bytes of the average in a shard's buffer, with the zeros that follow the parameters."""
    start = align(room(table, moments), ALIGNMENT)
    return slice(start, start + _parameters_stop(table))


def parts(table: Table, moments: int) -> list[slice]:
    """Return the parts of a shard's buffer that make up the version with averaged parameters, in order."""
    behind = slice(_parameters_stop(table), table.nbytes)
    return [place(table, moments), behind] if behind.start < behind.stop else [place(table, moments)]


def _parameters_stop(table: Table) -> int:
    return min(align(table.parameters_nbytes, 8), table.nbytes)


def _numbers(table: Table, buffer: Bytes, where: slice) -> Floats:
    return buffer[where][: table.parameters_nbytes].view(np.float32)
