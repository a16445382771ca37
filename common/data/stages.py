"""Stages of a run: consecutive batches that one number of replicas trains. Pure; imports no torch.

The number of replicas of a layer changes between two stages, at a batch that the master has announced.
Within a stage `common.data.replicas` says which replica trains a batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from common.data.replicas import next_own, owner
from common.errors import MalformedError
from common.wire.stages import Stage

# A longer list is that of no run: each change takes a drain of the layers.
MOST_STAGES = 10_000


@dataclass(frozen=True)
class Stages:
    """Stages announced so far; a pure function of the batch for every process.

    Attributes:
        starts: first batch of each stage, the first 0.
        replicas: R of each layer, by stage.
    """

    starts: tuple[int, ...]
    replicas: tuple[tuple[int, ...], ...]

    @staticmethod
    def first(replicas: Sequence[int]) -> Stages:
        """Return the stages of a run that has not changed its replicas."""
        return Stages((0,), (tuple(replicas),))

    @staticmethod
    def of(messages: Sequence[Stage], layers: int) -> Stages:
        """Return the stages of a list of messages, in a run of so many layers.

        Raises:
            MalformedError: the list cannot be that of the run.
        """
        starts = tuple(message.start for message in messages)
        replicas = tuple(tuple(message.replicas) for message in messages)
        grows = starts[:1] == (0,) and all(earlier < later for earlier, later in pairwise(starts))
        whole = all(len(counts) == layers and min(counts) > 0 for counts in replicas)
        if not (grows and whole and len(starts) <= MOST_STAGES):
            raise MalformedError(
                f"stages from the batches {starts!r:.80} on, with replicas {replicas!r:.80}, are those of no "
                f"run of {layers} layers"
            )
        return Stages(starts, replicas)

    def to_messages(self) -> list[Stage]:
        """Return the stages as messages."""
        return [Stage(start, [*counts]) for start, counts in zip(self.starts, self.replicas, strict=True)]

    def number(self, batch: int) -> int:
        """Return the number of batch b's stage, from 0."""
        return bisect_right(self.starts, batch) - 1

    def end(self, number: int) -> int | None:
        """Return the first batch behind a stage; None: the run's end."""
        return self.starts[number + 1] if number + 1 < len(self.starts) else None

    def owner(self, batch: int, k: int, warm_start: int = 0) -> int:
        """Return the replica of layer k that trains batch b."""
        return owner(batch, self.replicas[self.number(batch)][k - 1], warm_start)

    def extended(self, start: int, replicas: Sequence[int]) -> Stages:
        """Return the stages with one more, from a batch behind the last stage's first on."""
        assert start > self.starts[-1], "a stage has a batch"
        return replace(self, starts=(*self.starts, start), replicas=(*self.replicas, tuple(replicas)))

    def with_last(self, replicas: Sequence[int]) -> Stages:
        """Return the stages with other replicas in the last one, of which no batch has begun."""
        return replace(self, replicas=(*self.replicas[:-1], tuple(replicas)))

    def through(self, number: int) -> Stages:
        """Return the stages up to one of them."""
        return Stages(self.starts[: number + 1], self.replicas[: number + 1])


def count_own(first: int, end: int, replica: int, replicas: int, warm_start: int = 0) -> int:
    """Count the batches from `first` to before `end` that a replica of R trains."""
    alone = max(0, min(end, warm_start) - first) if replica == 0 else 0
    begin = next_own(max(first, warm_start), replica, replicas, warm_start)
    return alone + len(range(begin, end, replicas))
