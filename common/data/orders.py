"""Orders of an epoch's examples: pure functions of (seed, epoch) in bounded memory."""

from __future__ import annotations

import functools
from typing import Protocol

import numpy as np

from common.data.examples import Examples, epoch_length

# Rows that an epoch shuffles in memory: a permutation takes 8 bytes a row, and 24 while it is made. Longer
# epochs are shuffled by a keyed bijection, some thousand rows at a time.
LARGEST_PERMUTATION = 1 << 21
_ROUNDS = 6
_BLOCK = 4096


class Order(Protocol):
    """Order of the numbers 0..count-1."""

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return the numbers at the places start..stop-1, (n,) int64."""


class EpochOrders:
    """Rows of examples in the order of each epoch.

    An epoch of examples with a stride takes every `stride`-th row from an offset of its own, so that each
    row occurs over epochs.

    Args:
        examples: source of count and stride.
        seed: of the run.
    """

    def __init__(self, examples: Examples, seed: int) -> None:
        self._seed = seed
        self._stride = examples.stride
        self.length = epoch_length(examples)
        self._offsets = len(examples) - (self.length - 1) * self._stride
        # Two epochs: replicas and late gradients reach back across the end of one epoch.
        self._epoch = functools.lru_cache(maxsize=2)(self._begin)

    def rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Return the rows at the places start..stop-1 of an epoch, (n,) int64."""
        order, offset = self._epoch(epoch)
        places = order(start, stop)
        return places if self._stride == 1 else places * self._stride + offset

    def _begin(self, epoch: int) -> tuple[Order, int]:
        """Return the order of an epoch, and the first row that it may take."""
        offset = int(words(1, self._seed, 1, epoch)[0] % np.uint64(self._offsets))
        return shuffle(self.length, self._seed, epoch), offset


def shuffle(count: int, seed: int, stream: int) -> Order:
    """Return the order of 0..count-1 for a seed and a stream.

    Up to `LARGEST_PERMUTATION` numbers the order is `permutation`, beyond that a `Bijection`.
    """
    if count > LARGEST_PERMUTATION:
        return Bijection(count, words(_ROUNDS, seed, stream))
    order = permutation(count, seed, stream)
    return lambda start, stop: order[start:stop]


class Bijection:
    """Keyed bijection of 0..count-1 without a table: a balanced Feistel network with cycle walking.

    The network permutes the numbers of 2h bits, at most four times `count`; a number that leaves the range is
    encrypted again until it falls inside (Black and Rogaway 2002).

    Args:
        count: of numbers.
        keys: (rounds,) uint64.
    """

    def __init__(self, count: int, keys: np.ndarray) -> None:
        self._count = np.uint64(count)
        self._half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
        self._mask = (np.uint64(1) << self._half) - np.uint64(1)
        self._keys = keys
        # Many at a time: numpy takes as long for a few.
        self._block = functools.lru_cache(maxsize=4)(self._encrypt_block)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return the images of start..stop-1, (n,) int64."""
        first = start // _BLOCK
        blocks = [self._block(number) for number in range(first, (max(start, stop - 1)) // _BLOCK + 1)]
        return np.concatenate(blocks)[start - first * _BLOCK : stop - first * _BLOCK]

    def _encrypt_block(self, number: int) -> np.ndarray:
        start = number * _BLOCK
        numbers = self._encrypt(np.arange(start, min(start + _BLOCK, int(self._count)), dtype=np.uint64))
        while (outside := numbers >= self._count).any():
            numbers[outside] = self._encrypt(numbers[outside])
        return numbers.astype(np.int64)

    def _encrypt(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (mix_words(right ^ key) & self._mask)
        encrypted: np.ndarray = (left << self._half) | right
        return encrypted


def mix_words(words: np.ndarray) -> np.ndarray:
    """Finish words as SplitMix64 does (Steele et al. 2014); products wrap at 2^64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed


def permutation(count: int, seed: int, stream: int) -> np.ndarray:
    """Permute the numbers 0..count-1 as a pure function of the arguments: (count,) int64."""
    return np.argsort(words(count, seed, stream), kind="stable")


def draw_rows(count: int, drawn: int) -> np.ndarray:
    """Draw rows of `count`, repeats included, by a fixed seed: (drawn,) int64, for a sample of a data set."""
    return (words(drawn, 0) % np.uint64(count)).astype(np.int64)


def words(count: int, seed: int, *stream: int) -> np.ndarray:
    """Draw random words, (count,) uint64, as a pure function of the arguments.

    Numpy promises equal words from release to release, but not equal results of its generators' other
    methods, and two slaves may run different releases.
    """
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream)).random_raw(count)
