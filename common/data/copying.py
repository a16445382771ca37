"""Streams of the tasks copy and repeat-copy (Graves et al. 2014), for recurrent networks.

An episode of copy: N bits, a delimiter, then N + 1 blanks, while which the N bits and an end are due. An
episode of repeat-copy has the number R in the delimiter's place, and the bits are due R times. Episodes
follow each other without a break. Each of B parallel streams begins in the midst of an episode of its own, so
that a batch holds every phase.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.config.tasks import IGNORED
from common.data.orders import mix_words

# Tokens: the two bits, the blank, the delimiter (and the end); of repeat-copy, from REPEATS on, R = 1, 2, ...
BLANK, END, REPEATS = 2, 3, 4
COPY_VOCABULARY = REPEATS
REPEAT_VOCABULARY = REPEATS + 60
# Odd constant of SplitMix64, by which neighbouring numbers come apart.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Level:
    """Difficulty of an episode.

    Attributes:
        bits: N.
        repeats: R; None: the task is copy.
    """

    bits: int = 1
    repeats: int | None = None

    @property
    def given(self) -> int:
        """Number of bits that are due, N R."""
        return self.bits * (self.repeats or 1)

    @property
    def steps(self) -> int:
        """Steps of an episode: N bits, the delimiter, N R bits, the end."""
        return self.bits + self.given + 2

    @property
    def length(self) -> int:
        """Length N R + 3, by which Jaderberg et al. count."""
        return self.given + 3

    def harder(self) -> Level:
        """Return the next level: a bit more; of repeat-copy a bit or a repeat more, by turns."""
        if self.repeats is None:
            return Level(self.bits + 1)
        if self.bits == self.repeats:
            return Level(self.bits + 1, self.repeats)
        return Level(self.bits, self.repeats + 1)


@dataclass(frozen=True)
class Streams:
    """B parallel streams of episodes of a level, in windows of T steps.

    Batch b is a pure function of the attributes and b, so that a run is repeated from the list of its levels
    and of the batches at which each began.

    Attributes:
        seed: of the run.
        count: B.
        window: T.
        level: of the episodes.
        start: the first batch of the level.
    """

    seed: int
    count: int
    window: int
    level: Level
    start: int = 0

    def batch(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens x and targets y, both (B, T) int64; `IGNORED` where no token is due.

        Args:
            batch: b, at least `start`.
        """
        bits = self.level.bits
        streams, episodes, phases = self._place(batch)
        due = phases - bits - 1
        reads = phases < bits
        numbers = self._bits(streams, episodes, np.where(reads, phases, due % bits))
        sign = END if self.level.repeats is None else REPEATS + self.level.repeats - 1
        x = np.where(reads, numbers, np.where(due < 0, sign, BLANK))
        y = np.where(due == self.level.given, END, numbers)
        return x, np.where(due < 0, IGNORED, y)

    def _place(self, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return streams (B, 1), and episode and phase of each step, (B, T)."""
        streams = np.arange(self.count)[:, None]
        offsets = (self._words(streams, 0, 0) % np.uint64(self.level.steps)).astype(np.int64)
        times = offsets + (batch - self.start) * self.window + np.arange(self.window)
        return streams, *np.divmod(times, self.level.steps)

    def _bits(self, streams: np.ndarray, episodes: np.ndarray, places: np.ndarray) -> np.ndarray:
        return (self._words(streams, 1 + episodes, places) >> np.uint64(63)).astype(np.int64)

    def _words(self, *numbers: np.ndarray | int) -> np.ndarray:
        """Hash the seed, the level and the numbers into words of 64 bits."""
        words = np.zeros(1, np.uint64)
        for number in (self.seed, self.level.bits, self.level.repeats or 0, *numbers):
            words = mix_words((words ^ np.asarray(number).astype(np.uint64)) + _GOLDEN)
        return words
