"""Which replica of a layer trains which batch: pure functions that every process agrees on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd


def owner(batch: int, replicas: int, warm_start: int = 0) -> int:
    """The replica of a layer with R = `replicas` that trains batch b: b mod R.

    Downpour's warm start (Dean et al. 2012): replica 0 alone trains the first `warm_start` batches.
    """
    return 0 if batch < warm_start else batch % replicas


def next_own(batch: int, replica: int, replicas: int, warm_start: int = 0) -> int:
    """The first batch from `batch` on that is this replica's."""
    if replica == 0 and batch < warm_start:
        return batch
    batch = max(batch, warm_start)
    return batch + (replica - batch) % replicas


def partners(replica: int, own: int, other: int) -> list[int]:
    """The replicas of a neighbouring layer, of `other`, that share a batch with this one of `own`."""
    common = gcd(own, other)
    return [there for there in range(other) if there % common == replica % common]


@dataclass(frozen=True)
class Place:
    """One replica of a layer, and how many its own and the neighbouring layers have.

    Attributes:
        replica: which of `own` this is.
        own: R of its layer.
        below: R of the layer below.
        above: R of the layer above.
        warm_start: the batches that replica 0 of each layer trains alone.
    """

    replica: int = 0
    own: int = 1
    below: int = 1
    above: int = 1
    warm_start: int = 0

    def senders(self, k: int) -> list[int]:
        """The replicas below that send activations to this one of layer k."""
        return partners(self.replica, self.own, self.below) if k > 1 else []

    def receivers(self) -> list[int]:
        """The replicas above that this one sends activations to."""
        return partners(self.replica, self.own, self.above)

    def sender(self, batch: int) -> int:
        """The replica below that has batch b."""
        return owner(batch, self.below, self.warm_start)

    def receiver(self, batch: int) -> int:
        """The replica above that has batch b."""
        return owner(batch, self.above, self.warm_start)

    def between(self, sender: int) -> Callable[[int], bool]:
        """Whether a batch comes to this replica from that one below."""

        def comes(batch: int) -> bool:
            return owner(batch, self.own, self.warm_start) == self.replica and self.sender(batch) == sender

        return comes

    def next_own(self, batch: int) -> int:
        """The first batch from `batch` on that is this replica's."""
        return next_own(batch, self.replica, self.own, self.warm_start)
