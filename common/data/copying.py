"""Streams of the tasks copy and repeat-copy (Graves et al. 2014), for recurrent networks. Imports no torch.

An episode of copy: N bits, a delimiter, then N + 1 blanks, while which the N bits and an end are due. An
episode of repeat-copy has the number R in the delimiter's place, and the bits are due R times. Episodes
follow each other without a break. Each of the parallel streams begins in the midst of an episode of its own,
so that a batch holds every phase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from common.config.tasks import CURRICULUM_METRICS, IGNORED
from common.data.examples import Medium
from common.data.forms import Form
from common.data.levels import MOST_LEVELS, Levels
from common.data.orders import mix_words
from common.signals.forms import PLAIN

# Tokens: the two bits, the blank, the delimiter (and the end); of repeat-copy, from REPEATS on, R = 1, 2, ...
BLANK, END, REPEATS = 2, 3, 4
COPY_VOCABULARY = REPEATS
REPEAT_VOCABULARY = REPEATS + MOST_LEVELS // 2
# A row names level, window and stream, in so many bits each.
STREAM_BITS, WINDOW_BITS = 20, 36
MOST_STREAMS = 1 << STREAM_BITS
# No run's seed: test streams are equal for all runs.
TEST_SEED = (1 << 64) - 1
# Test streams, and the fewest steps of each.
TEST_STREAMS, TEST_STEPS = 64, 512
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

    @staticmethod
    def of(number: int, *, repeats: bool) -> Level:
        """Return a level by its number, from 0.

        Each has a bit more than the level before; of repeat-copy a bit or a repeat more, by turns.
        """
        return Level(1 + (number + 1) // 2, 1 + number // 2) if repeats else Level(1 + number)

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


def pack(level: int, window: int, streams: np.ndarray) -> np.ndarray:
    """Return the rows of a window of streams, (B,) int64; level, window and streams are numbers from 0."""
    rows: np.ndarray = streams.astype(np.int64) + ((level << WINDOW_BITS | window) << STREAM_BITS)
    return rows


class Episodes:
    """Windows of T steps of endless streams: `common.data.examples.Examples` that are made as they are read.

    A window is a pure function of seed, level, stream and the window's number in the level.

    Args:
        window: T.
        repeats: whether the task is repeat-copy.
        seed: of the bits.
        aligned: whether streams begin at the start of an episode rather than in the midst.
    """

    def __init__(self, window: int, *, repeats: bool, seed: int = 0, aligned: bool = False) -> None:
        self.window = window
        self.repeats = repeats
        self._seed = seed
        self._aligned = aligned

    stride = 1
    medium = Medium.MEMORY
    target_dtype = np.dtype(np.int64)

    @property
    def vocabulary(self) -> int:
        """Number of different tokens."""
        return REPEAT_VOCABULARY if self.repeats else COPY_VOCABULARY

    @property
    def input_forms(self) -> Mapping[str, Form]:
        """Form of x, tokens (T,)."""
        return {PLAIN: Form((self.window,), self.target_dtype)}

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of y, (T,)."""
        return (self.window,)

    def __len__(self) -> int:
        return MOST_LEVELS << WINDOW_BITS + STREAM_BITS

    def seeded(self, seed: int) -> Episodes:
        """Return the streams of another seed."""
        return Episodes(self.window, repeats=self.repeats, seed=seed, aligned=self._aligned)

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Make tokens x by name, (n, T) int64."""
        return {PLAIN: self.read(rows)[0]}

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Make targets y, (n, T) int64; `IGNORED` where no token is due."""
        return self.read(rows)[1]

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make tokens x and targets y, both (n, T) int64."""
        rows = rows[:, None]
        numbers, windows = rows >> WINDOW_BITS + STREAM_BITS, rows >> STREAM_BITS & (1 << WINDOW_BITS) - 1
        streams = rows & (1 << STREAM_BITS) - 1
        bits = 1 + (numbers + 1) // 2 if self.repeats else 1 + numbers
        repeats = 1 + numbers // 2 if self.repeats else np.zeros_like(numbers)
        given = bits * np.maximum(repeats, 1)
        sign = REPEATS + repeats - 1 if self.repeats else END
        steps = bits + given + 2
        first = 0 if self._aligned else self._words(bits, repeats, streams, 0, 0) % steps.astype(np.uint64)
        times = np.asarray(first).astype(np.int64) + windows * self.window + np.arange(self.window)
        episodes, phases = np.divmod(times, steps)
        due = phases - bits - 1
        reads = phases < bits
        places = np.where(reads, phases, due % bits)
        tokens = (self._words(bits, repeats, streams, 1 + episodes, places) >> np.uint64(63)).astype(np.int64)
        x = np.where(reads, tokens, np.where(due < 0, sign, BLANK))
        y = np.where(due == given, END, tokens)
        return x, np.where(due < 0, IGNORED, y)

    def _words(self, *numbers: np.ndarray | int) -> np.ndarray:
        """Hash the seed and the numbers into words of 64 bits."""
        words = np.zeros(1, np.uint64)
        for number in (self._seed, *numbers):
            words = mix_words((words ^ np.asarray(number).astype(np.uint64)) + _GOLDEN)
        return words


def level_rows(episodes: Episodes, level: int, joined: int) -> Iterator[np.ndarray]:
    """Yield rows of the test streams of a level, (B, windows joined), for two whole episodes at least.

    Args:
        episodes: test streams.
        level: number from 0.
        joined: most windows of a stream that are read as one.
    """
    steps = max(TEST_STEPS, 2 * Level.of(level, repeats=episodes.repeats).steps)
    count, streams = -(-steps // episodes.window), np.arange(TEST_STREAMS)
    for first in range(0, count, joined):
        windows = range(first, min(first + joined, count))
        yield np.stack([pack(level, window, streams) for window in windows], 1)


@dataclass(frozen=True)
class Stage:
    """Place of a network in the curriculum.

    Attributes:
        level: number of the level of the network's last batch, from 1.
        longest_solved: length of the last level that the run has solved; 0: none.
    """

    level: int = 1
    longest_solved: int = 0

    @staticmethod
    def of(levels: Levels, batches: int, *, repeats: bool) -> Stage:
        """Return the stage of a network that has learned from the first `batches` batches."""
        longest = Level.of(levels.solved - 1, repeats=repeats).length if levels.solved else 0
        return Stage(1 + levels.number(max(0, batches - 1)), longest)

    @property
    def metrics(self) -> dict[str, float]:
        """The stage as metrics of an evaluation, by `CURRICULUM_METRICS`."""
        return dict(zip(CURRICULUM_METRICS, (self.longest_solved, self.level), strict=True))
