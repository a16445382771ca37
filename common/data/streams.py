"""Streams for recurrent networks: batch b is a window of T steps of B parallel streams, and b + R the next.

With R the least common multiple of the layers' replicas, batch b is window b div R of group b mod R, each
group with B streams of its own: the replica that trains b also trains the windows around b. Imports no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from common.data.copying import MOST_STREAMS, Episodes, pack
from common.data.examples import Examples, epoch_length
from common.data.levels import Levels
from common.data.orders import words
from common.errors import ConfigError


class StreamOrder(Protocol):
    """Order of the windows of parallel streams.

    Attributes:
        groups: R.
    """

    groups: int

    def rows(self, batch: int) -> np.ndarray:
        """Return the rows of batch b, (B,) int64, a row for each stream."""

    def begins(self, batch: int) -> bool:
        """Whether the streams of batch b begin with it: they continue nothing."""

    def epoch(self, batch: int) -> int:
        """Return the number of batch b's epoch; streams of different epochs have nothing in common."""


def order_streams(examples: Examples, seed: int, size: int, groups: int) -> StreamOrder:
    """Return the order of examples in streams; arguments and errors as of `Streams`."""
    if isinstance(examples, Episodes):
        return LevelStreams(size, groups)
    return Streams(examples, seed, size, groups)


class Streams:
    """Rows of windows that follow each other; batches are a pure function of (seed, b).

    An epoch cuts the tokens into R B parts side by side, from an offset of its own, and reads each part as a
    stream of W windows; the few windows left over are dropped. An epoch's first window continues nothing.

    Args:
        examples: windows of T tokens from every token on; the stride is T.
        seed: of the run.
        size: B.
        groups: R.

    Raises:
        ConfigError: fewer windows side by side than R B.
    """

    def __init__(self, examples: Examples, seed: int, size: int, groups: int) -> None:
        count = epoch_length(examples)
        self.groups, self._seed, self._stride = groups, seed, examples.stride
        if size * groups > count:
            by = f" and {groups} groups, one a replica," if groups > 1 else ""
            raise ConfigError(
                f"run.batch_size: {size} streams{by} need {size * groups} windows of {self._stride} steps, "
                f"but the training data has {count}; give at most {count // groups}, or a shorter time.window"
            )
        self._windows = count // (size * groups)
        self._starts = np.arange(size * groups).reshape(groups, size) * self._windows
        self._offsets = len(examples) - (size * groups * self._windows - 1) * self._stride
        # Two epochs: replicas and late gradients reach back across the end of one epoch.
        self._offset = functools.lru_cache(maxsize=2)(self._draw_offset)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in an epoch, W R."""
        return self._windows * self.groups

    def rows(self, batch: int) -> np.ndarray:
        """Return the rows of batch b, (B,) int64, a row for each stream."""
        epoch, window = divmod(batch // self.groups, self._windows)
        windows: np.ndarray = self._starts[batch % self.groups] + window
        return windows * self._stride + self._offset(epoch)

    def begins(self, batch: int) -> bool:
        """Whether the streams of batch b begin with it, at the start of an epoch."""
        return batch // self.groups % self._windows == 0

    def epoch(self, batch: int) -> int:
        """Return the epoch of batch b."""
        return batch // self.groups // self._windows

    def _draw_offset(self, epoch: int) -> int:
        """Return the first row of an epoch."""
        return int(words(1, self._seed, 1, epoch)[0] % np.uint64(self._offsets))


class LevelStreams:
    """Rows of endless streams whose level is raised in the course of a run; a level is an epoch.

    Batches are a pure function of (seed, b) and the list of levels.

    Args:
        size: B.
        groups: R.

    Attributes:
        levels: known so far.

    Raises:
        ConfigError: more streams than rows can name.
    """

    def __init__(self, size: int, groups: int) -> None:
        if size * groups > MOST_STREAMS:
            by = f" in {groups} groups, one a replica" if groups > 1 else ""
            raise ConfigError(
                f"run.batch_size: {size} streams{by} are too many; give at most {MOST_STREAMS // groups}"
            )
        self.levels = Levels()
        self.groups, self._size = groups, size

    def rows(self, batch: int) -> np.ndarray:
        """Return the rows of batch b, whose level must be decided, (B,) int64."""
        assert batch < self.levels.decided, f"the level of batch {batch} is not known"
        number = self.levels.number(batch)
        window = (batch - self.levels.starts[number]) // self.groups
        return pack(number, window, batch % self.groups * self._size + np.arange(self._size))

    def begins(self, batch: int) -> bool:
        """Whether the streams of batch b begin with it, at the start of a level."""
        return batch - self.groups < self.levels.starts[self.levels.number(batch)]

    def epoch(self, batch: int) -> int:
        """Return the number of batch b's level, from 0."""
        return self.levels.number(batch)


def stream_rows(windows: int, streams: int, joined: int) -> Iterator[np.ndarray]:
    """Yield rows of a test set whose windows lie side by side, (streams, windows joined), every row once.

    The set is cut into streams side by side. The longer streams come first, and the others end a step sooner:
    the state of a stream stays in its place.

    Args:
        windows: number of windows of the set.
        streams: most streams.
        joined: most windows of a stream that are read as one.
    """
    streams = min(streams, windows)
    length, longer = divmod(windows, streams)
    starts = np.arange(streams) * length + np.minimum(np.arange(streams), longer)
    for first in range(0, length, joined):
        yield starts[:, None] + np.arange(first, min(first + joined, length))
    if longer:
        yield starts[:longer, None] + length
