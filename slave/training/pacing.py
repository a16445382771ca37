"""Steps between two pushes from the measured time of pushes: `downpour.n_push = "auto"`. No I/O, no clock."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable

from common.config.downpour import FEWEST_STEPS
from common.shards.working_copy import WorkingCopy

# Share of the time that pushes may take.
SHARE = 0.05
# Most steps between two pushes: a slave that dies loses as many, and replicas drift apart.
MOST_STEPS = 1000
# A new number leaves room for a push that takes longer by a quarter; a number is lowered where twice that
# room would be left.
ROOM = 1.25
# Measurements that a median is taken of.
REMEMBERED = 5


def choose(n: int, load: float) -> int:
    """Return the number of steps between two pushes, given the present number n.

    Pushes take at most SHARE of the time after each decision, unless MOST_STEPS allow no longer interval.
    Measurements that vary by less than ROOM change no number twice.

    Args:
        n: present number of steps.
        load: duration of the pushes of all shards, fragments included, in steps.
    """
    needed = min(load / SHARE, MOST_STEPS)
    if n >= max(needed, FEWEST_STEPS) and n <= max(needed * ROOM**3, FEWEST_STEPS):
        return n
    return min(math.ceil(needed * ROOM), MOST_STEPS) if needed > FEWEST_STEPS else FEWEST_STEPS


class PushPace:
    """Steps between two pushes of a layer, by the median of the last measurements.

    The pushes of a slave share a link and follow one another, so a push lasts from the later of its hand-over
    and the answer before. A round trip counts as a use of the link.

    Args:
        copies: working copies that push at the pace.
    """

    def __init__(self, copies: Iterable[WorkingCopy]) -> None:
        self.n = FEWEST_STEPS
        self._copies = list(copies)
        self._begun: dict[str, float] = {}
        self._answered = -math.inf
        self._seconds: dict[str, deque[float]] = {
            copy.name: deque(maxlen=REMEMBERED) for copy in self._copies
        }
        # Time and number of steps at the last pushes, and seconds from a step to the next, by shard: with
        # `accumulate` the shards step at different batches.
        self._marks: dict[str, deque[tuple[float, int]]] = {
            copy.name: deque(maxlen=REMEMBERED) for copy in self._copies
        }
        self._step_seconds: dict[str, float] = {}

    def begin(self, shard: str, now: float, steps: int) -> None:
        """Note the hand-over of a push at `now` seconds, after `steps` steps of the shard."""
        self._begun[shard] = now
        if shard in self._marks:
            self._marks[shard].append((now, steps))

    def answer(self, shard: str, now: float, steps: int) -> None:
        """Note the answer to a push at `now` seconds, and choose the number of steps anew."""
        began = self._begun.pop(shard, None)
        if began is None:
            return
        seconds = now - max(began, self._answered)
        self._answered = now
        if shard not in self._seconds:
            return
        self._seconds[shard].append(seconds)
        then, before = self._marks[shard][0]
        if steps > before and now > then:
            self._step_seconds[shard] = (now - then) / (steps - before)
        if len(self._step_seconds) < len(self._copies):
            return
        self.n = choose(self.n, sum(map(self._load, self._copies)))
        for copy in self._copies:
            copy.push_every(self.n)

    def _load(self, copy: WorkingCopy) -> float:
        """Return the duration of a shard's pushes, of all fragments, in steps of the shard."""
        return copy.parts * statistics.median(self._seconds[copy.name]) / self._step_seconds[copy.name]
