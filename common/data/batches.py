"""Mini-batches (seed, b) -> x_b, y_b: every process constructs equal batches by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from common.config.sections import Config
from common.data.copying import Episodes, level_rows
from common.data.datasets import Dataset
from common.data.examples import Medium
from common.data.levels import Levels
from common.data.orders import EpochOrders, words
from common.data.prefetch import Prefetch
from common.data.streams import LevelStreams, StreamOrder, Streams, order_streams, stream_rows
from common.signals.forms import PLAIN
from common.signals.values import Signal, join, map_tensors
from common.wire.curriculum import Curriculum

# Pixels by which a crop may shift an image, as He et al. (2016) trained on CIFAR-10.
BORDER = 4
# Bounds of a test batch: positions, and numbers in the output of the network (128 MiB).
MOST_POSITIONS = 1 << 13
MOST_OUTPUTS = 1 << 25
# Of inputs, as float32.
MOST_INPUT_BYTES = 64 << 20
# Streams that a test set is cut into.
TEST_STREAMS = 16


class Batches:
    """The run's mini-batches of B examples: batch b is a pure function of (seed, b).

    Every epoch visits the training set in its own order; the fewer than B examples left over at its end are
    dropped. With streams, batch b + R goes on where batch b ended (`common.data.streams`). Where examples
    become harder, batch b exists once its level is decided.

    Attributes:
        size: B, number of examples in a batch, or of streams.
        streams: order of the windows; None: batches of examples in random order.
    """

    def __init__(self, dataset: Dataset, seed: int, batch_size: int, groups: int | None = None) -> None:
        """Cut the data set into batches of `batch_size` (B) examples, in orders determined by `seed`.

        Args:
            dataset: source of the training examples.
            seed: of the run.
            batch_size: B.
            groups: R, groups of B streams; None: no streams.

        Raises:
            ConfigError: the data set has fewer than B training examples, or fewer than R B windows.
        """
        if groups is None:
            dataset.check_batch_size(batch_size)
        streams = None if groups is None else order_streams(dataset.train, seed, batch_size, groups)
        self.streams: StreamOrder | None = streams
        self._train = dataset.train.seeded(seed) if isinstance(dataset.train, Episodes) else dataset.train
        self._augment = dataset.augment
        self.size = batch_size
        self._seed = seed
        self._normalize = _Normalization(dataset)
        self._orders = EpochOrders(dataset.train, seed)
        waits = dataset.train.medium is not Medium.MEMORY
        self._inputs = Prefetch(self._read_inputs).get if waits else self._read_inputs
        self._labels = Prefetch(self._read_labels).get if waits else self._read_labels

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in an epoch; endless streams have none."""
        if isinstance(self.streams, Streams):
            return self.streams.batches_per_epoch
        return self._orders.length // self.size

    @property
    def levels(self) -> Levels | None:
        """Levels of the batches known so far; None: examples do not become harder."""
        return self.streams.levels if isinstance(self.streams, LevelStreams) else None

    def learn(self, curriculum: Curriculum) -> None:
        """Take the levels that a master has decided; an older list changes nothing.

        Raises:
            MalformedError: the list is that of no run.
        """
        if isinstance(self.streams, LevelStreams) and curriculum.decided > self.streams.levels.decided:
            self.streams.levels = Levels.of(curriculum)

    def has(self, batch: int) -> bool:
        """Whether batch b exists: its level is decided."""
        return self.levels is None or batch < self.levels.decided

    @staticmethod
    def of(config: Config, dataset: Dataset) -> Batches:
        """Return the batches of a run.

        Raises:
            ConfigError: the data set has too few training examples.
        """
        return Batches(dataset, config.run.seed, config.run.batch_size, config.groups)

    def inputs(self, batch: int) -> Signal:
        """Inputs x_b of B examples.

        Bytes and floats are float32, normalized; whole numbers such as tokens int64, masks bool.
        """
        return self._inputs(batch)

    def _read_inputs(self, batch: int) -> Signal:
        raw = self._train.inputs(self._rows(batch))
        vary = _VARIATIONS.get(self._augment)
        if vary is not None:
            raw[PLAIN] = vary(raw[PLAIN], words(self.size, self._seed, 0, batch))
        return self._normalize(raw)

    def labels(self, batch: int) -> torch.Tensor:
        """Targets y_b, (B, *target_shape): int64 (B,) for classes."""
        return self._labels(batch)

    def _read_labels(self, batch: int) -> torch.Tensor:
        return torch.from_numpy(self._train.targets(self._rows(batch)))

    def _rows(self, batch: int) -> np.ndarray:
        if self.streams:
            return self.streams.rows(batch)
        epoch, place = divmod(batch, self.batches_per_epoch)
        return self._orders.rows(epoch, place * self.size, (place + 1) * self.size)


def test_batches(  # pytest collects a function of this name wherever it is imported: import the module
    dataset: Dataset,
    size: int | None = None,  # noqa: PT028 - not a test
) -> Iterator[tuple[Signal, torch.Tensor]]:
    """Yield the test set once, in order: x of B examples, as in training, and y (B, *target_shape).

    Args:
        dataset: source of the test set.
        size: B, or more than the last batch has. None: 1000, and fewer where targets have many positions.
    """
    normalize, size = _Normalization(dataset), size or _test_size(dataset)
    for start in range(0, len(dataset.test), size):
        rows = np.arange(start, min(start + size, len(dataset.test)))
        yield normalize(dataset.test.inputs(rows)), torch.from_numpy(dataset.test.targets(rows))


def test_windows(  # the name as of `test_batches`
    dataset: Dataset,
    streams: int = TEST_STREAMS,  # noqa: PT028 - not a test
    joined: int = 1,  # noqa: PT028
    level: int = 0,  # noqa: PT028
) -> Iterator[tuple[Signal, torch.Tensor]]:
    """Yield the test set once, as windows of streams that go on: x (B, T, ...) and y (B, *target_shape).

    The first B streams of a batch go on in the next, which may have fewer.

    Args:
        dataset: source of the test set, of tokens whose windows lie side by side.
        streams: most streams, B.
        joined: most windows of a stream that are joined to one, where memory allows.
        level: number of the level of endless streams, from 0; a fixed part of those streams is the test set.
    """
    normalize, most = _Normalization(dataset), _test_size(dataset)
    streams = min(streams, most)
    joined = max(1, min(joined, most // streams))
    test = dataset.test
    if isinstance(test, Episodes):
        taken = level_rows(test, level, joined)
    else:
        taken = stream_rows(len(test), streams, joined)
    for rows in taken:
        x, y = normalize(test.inputs(rows.ravel())), torch.from_numpy(test.targets(rows.ravel()))
        yield map_tensors(partial(_join_steps, len(rows)), x), _join_steps(len(rows), y)


def _join_steps(streams: int, windows: torch.Tensor) -> torch.Tensor:
    """Join windows of each stream, (B n, T, ...), to one, (B, n T, ...)."""
    return windows.reshape(streams, -1, *windows.shape[2:])


def _test_size(dataset: Dataset) -> int:
    positions = math.prod(dataset.test.target_shape)
    most = min(MOST_POSITIONS, MOST_OUTPUTS // dataset.classes)
    numbers = sum(form.size for form in dataset.test.input_forms.values())
    return max(1, min(1000, most // positions, MOST_INPUT_BYTES // (4 * numbers)))


def crop_and_flip(images: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Pad each image of (N, C, H, W) by `BORDER` zeros, crop to H x W, and mirror half of the images.

    The crop's position and the mirroring of an image come from its own random word of `words`, (N,) uint64.
    """
    _, _, height, width = images.shape
    border = (BORDER, BORDER)
    padded = np.pad(images, ((0, 0), (0, 0), border, border))
    places = 2 * BORDER + 1
    rows = (words % places).astype(np.int64)[:, None] + np.arange(height)
    columns = (words // places % places).astype(np.int64)[:, None] + np.arange(width)
    mirrored = words >> np.uint64(63) == 1
    columns[mirrored] = columns[mirrored, ::-1]
    channels = np.arange(images.shape[1])[:, None, None]
    each = np.arange(len(images))[:, None, None, None]
    cut: np.ndarray = padded[each, channels, rows[:, None, :, None], columns[:, None, None, :]]
    return cut


# Keyed by rows of `common.config.data.AUGMENTS`; other rows leave examples unchanged.
_VARIATIONS = {"crop-flip": crop_and_flip}


class _Normalization:
    """Map raw inputs to x_b: (raw * scale - mean) / std, computed as (raw - mean / scale) * (scale / std).

    Tensors without a scaling become int64, or stay bool.
    """

    def __init__(self, dataset: Dataset) -> None:
        # The names' order in batches of both sets.
        self._names = list(dataset.train.input_forms)
        self._terms = {
            name: (
                _by_channel([mean / scaling.scale for mean in scaling.mean]),
                _by_channel([scaling.scale / std for std in scaling.std]),
            )
            for name, scaling in dataset.scalings.items()
        }

    def __call__(self, raw: dict[str, np.ndarray]) -> Signal:
        return join({name: self._normalize(name, raw[name]) for name in self._names})

    def _normalize(self, name: str, raw: np.ndarray) -> torch.Tensor:
        terms = self._terms.get(name)
        if terms is None:
            return torch.from_numpy(raw if raw.dtype.kind == "b" else raw.astype(np.int64, copy=False))
        shift, factor = terms
        # astype always copies, so in-place arithmetic never changes the data set itself.
        return torch.from_numpy(raw.astype(np.float32)).sub_(shift).mul_(factor)


def _by_channel(values: list[float]) -> torch.Tensor:
    """A scalar for a single value, else (C, 1, 1)."""
    tensor = torch.tensor(values, dtype=torch.float32)
    return tensor[0] if len(values) == 1 else tensor[:, None, None]
