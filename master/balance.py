"""Number of replicas that fits the slaves of a run, between the bounds of its configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.config.sections import Config
from master.placing import step_seconds
from master.seating import Seating

# Slaves that have waited for so many heartbeats, unchanged in number, get seats of their own.
SETTLE_BEATS = 5
# A slave that has not come for so many heartbeats is done without.
GIVE_UP_BEATS = 10


class Balance:
    """Replicas by layer, from `downpour.replicas` to `downpour.replicas_max`.

    Times are seconds of a monotonic clock.

    Args:
        config: resolved configuration.
        most: replicas of a layer, at most.
    """

    def __init__(self, config: Config, most: int) -> None:
        self._fewest, self._most = config.replicas, most
        self._beat = config.cluster.heartbeat_seconds
        # Numbers of waiting slaves and of vacant seats, and the time since when they are so.
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def propose(
        self, replicas: tuple[int, ...], seating: Seating, waiting: int, now: float
    ) -> tuple[int, ...]:
        """Return R by layer: as at present, or with seats for waiting slaves, or without vacant seats.

        Args:
            replicas: R by layer at present.
            seating: the seats.
            waiting: number of slaves that wait for a seat.
            now: the time.
        """
        vacant = seating.vacant()
        if (seen := (waiting, len(vacant))) != self._seen:
            self._seen, self._since = seen, now
        beats = (now - self._since) / self._beat
        counts = [*replicas]
        if waiting and not vacant and beats >= SETTLE_BEATS:
            counts = grow(replicas, self._most, waiting, step_seconds(seating.leases))
        if vacant and not waiting and beats >= GIVE_UP_BEATS:
            for lease in vacant:
                k = lease.layer - 1
                counts[k] = max(counts[k] - 1, self._fewest[k])
        return tuple(counts)


def grow(replicas: Sequence[int], most: int, slaves: int, seconds: Mapping[int, float]) -> list[int]:
    """Return R by layer with one more replica for each further slave, of the slowest layer each time.

    Args:
        replicas: R by layer at present.
        most: replicas of a layer, at most.
        slaves: number of further slaves.
        seconds: computing time of a batch by layer, from 1 on.
    """
    counts = [*replicas]
    for _ in range(slaves):
        open_layers = [k for k, count in enumerate(counts) if count < most]
        if not open_layers:
            break
        counts[max(open_layers, key=lambda k: seconds[k + 1] / counts[k])] += 1
    return counts
