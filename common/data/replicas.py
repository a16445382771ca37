"""Routes of batches through replicas: pure functions that every process agrees on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import gcd

from common.config.sections import Config


def owner(batch: int, replicas: int, warm_start: int = 0) -> int:
    """Return the replica of a layer with R = `replicas` that trains batch b: b mod R.

    Downpour's warm start (Dean et al. 2012): replica 0 alone trains the first `warm_start` batches.
    """
    return 0 if batch < warm_start else batch % replicas


def next_own(batch: int, replica: int, replicas: int, warm_start: int = 0) -> int:
    """Return the first batch at or after `batch` that this replica trains."""
    if replica == 0 and batch < warm_start:
        return batch
    batch = max(batch, warm_start)
    return batch + (replica - batch) % replicas


def partners(replica: int, own: int, other: int) -> list[int]:
    """List the replicas of a neighbouring layer, of `other`, that share a batch with this one of `own`."""
    common = gcd(own, other)
    return [there for there in range(other) if there % common == replica % common]


def may_stop(next_batches: Iterable[int], batches: int) -> bool:
    """Whether layers under unlock `full` may stop: the slowest layer is through the run's batches.

    Lower layers are the slower ones, and an upper layer must not freeze on features that are not ripe.

    Args:
        next_batches: first batch that the weights at each seat have not seen; 0 of a vacant seat.
        batches: of the run.
    """
    return min(next_batches) >= batches


@dataclass(frozen=True)
class BatchRoutes:
    """Ways of batches through one replica of a layer, from and to replicas of the neighbouring layers.

    Attributes:
        replica: number of this replica, 0 to own - 1.
        own: R of its layer.
        below: R of the layer below.
        above: R of the layer above.
        warm_start: number of batches that replica 0 of every layer trains alone.
    """

    replica: int = 0
    own: int = 1
    below: int = 1
    above: int = 1
    warm_start: int = 0

    @staticmethod
    def of(config: Config, k: int, replica: int) -> BatchRoutes:
        """Return the routes of a replica of layer k in a run."""
        counts = config.replicas
        below, above = counts[max(k - 2, 0)], counts[min(k, len(counts) - 1)]
        return BatchRoutes(replica, counts[k - 1], below, above, config.downpour.warm_start)

    def senders(self, k: int) -> list[int]:
        """List the replicas below that send activations to this one of layer k."""
        return partners(self.replica, self.own, self.below) if k > 1 else []

    def receivers(self) -> list[int]:
        """List the replicas above that receive activations from this one."""
        return partners(self.replica, self.own, self.above)

    def sender(self, batch: int) -> int:
        """Return the replica below that trains batch b."""
        return owner(batch, self.below, self.warm_start)

    def receiver(self, batch: int) -> int:
        """Return the replica above that trains batch b."""
        return owner(batch, self.above, self.warm_start)

    def between(self, sender: int) -> Callable[[int], bool]:
        """Return a predicate: does a batch reach this replica from `sender` below?"""

        def comes(batch: int) -> bool:
            return owner(batch, self.own, self.warm_start) == self.replica and self.sender(batch) == sender

        return comes

    def next_own(self, batch: int) -> int:
        """Return the first batch at or after `batch` that this replica trains."""
        return next_own(batch, self.replica, self.own, self.warm_start)
