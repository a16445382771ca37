"""Routes of batches through replicas: pure functions that every process agrees on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import gcd

from common.config.resizing import most_replicas
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


def meet(one: tuple[int, int], other: tuple[int, int], replicas: Sequence[int], *, broadcasts: bool) -> bool:
    """Whether the slaves on two seats, (layer, replica), send each other messages.

    They share a batch, and their layers are neighbours, or one of them is layer K that broadcasts.

    Args:
        one: a seat.
        other: a seat.
        replicas: R of each layer.
        broadcasts: whether layer K sends dL/dp to every layer.
    """
    (low, _), (high, _) = sorted((one, other))
    near = high - low == 1 or (broadcasts and low < high == len(replicas))
    counts = (replicas[layer - 1] for layer, _ in (one, other))
    return near and other[1] in partners(one[1], *counts)


def far_seats(config: Config, k: int, replica: int) -> list[tuple[int, int]]:
    """List the seats in no neighbouring layer with which a slave has a stream, for broadcasts of layer K."""
    counts, top = config.replicas, config.layers
    if not config.decoupling.broadcasts:
        return []
    layers = range(1, top - 1) if k == top else range(top, top + (k < top - 1))
    return [(each, there) for each in layers for there in partners(replica, counts[k - 1], counts[each - 1])]


def most_seats(config: Config) -> int:
    """Return the most seats that a run may come to have, at a time."""
    return config.layers * most_replicas(config)


def most_streams(config: Config) -> int:
    """Return the most streams of a slave: two at each neighbour, or one at every slave."""
    return most_seats(config) if config.decoupling.broadcasts else 2 * most_replicas(config)


def may_stop(next_batches: Iterable[int], batches: int) -> bool:
    """Whether layers under unlock `full` may stop: the slowest layer is through the run's batches.

    Lower layers are the slower ones, and an upper layer must not freeze on features that are not ripe.

    Args:
        next_batches: first batch that the weights at each seat have not seen; 0 of a vacant seat.
        batches: of the run.
    """
    return all(next_batch >= batches for next_batch in next_batches)


@dataclass(frozen=True)
class BatchRoutes:
    """Ways of batches through one replica of a layer, from and to replicas of the neighbouring layers.

    Attributes:
        replica: number of this replica, 0 to own - 1.
        own: R of its layer.
        below: R of the layer below.
        above: R of the layer above.
        warm_start: number of batches that replica 0 of every layer trains alone.
        hearers: layer and R of each layer below K - 1, of a layer K that broadcasts.
    """

    replica: int = 0
    own: int = 1
    below: int = 1
    above: int = 1
    warm_start: int = 0
    hearers: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(config: Config, k: int, replica: int) -> BatchRoutes:
        """Return the routes of a replica of layer k in a run."""
        counts = config.replicas
        below, above = counts[max(k - 2, 0)], counts[min(k, len(counts) - 1)]
        tells = config.decoupling.broadcasts and k == len(counts)
        hearers = tuple(enumerate(counts[:-2], 1)) if tells else ()
        return BatchRoutes(replica, counts[k - 1], below, above, config.downpour.warm_start, hearers)

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

    def hearing(self, batch: int) -> list[tuple[int, int]]:
        """List the seats below layer K - 1 that train batch b and hear of it from here."""
        return [(layer, owner(batch, count, self.warm_start)) for layer, count in self.hearers]

    def between(self, sender: int) -> Callable[[int], bool]:
        """Return a predicate: does a batch reach this replica from `sender` below?"""

        def comes(batch: int) -> bool:
            return owner(batch, self.own, self.warm_start) == self.replica and self.sender(batch) == sender

        return comes

    def next_own(self, batch: int) -> int:
        """Return the first batch at or after `batch` that this replica trains."""
        return next_own(batch, self.replica, self.own, self.warm_start)
