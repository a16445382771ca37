"""Mini-batches (seed, b) -> x_b, y_b: every process constructs equal batches by itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch

from common.data import datasets
from common.data.datasets import Dataset, permutation

# Pixels by which a crop may shift an image, as He et al. (2016) trained on CIFAR-10.
BORDER = 4


class Batches:
    """The run's mini-batches of B examples: batch b is a pure function of (seed, b).

    Every epoch visits the training set in its own order; the fewer than B examples left over at its end are
    dropped.
    """

    def __init__(self, dataset: Dataset, seed: int, batch_size: int) -> None:
        """Cut the data set into batches of `batch_size` (B) examples, in orders determined by `seed`.

        Raises:
            ConfigError: the data set has fewer than B training examples.
        """
        count = len(dataset.train_x)
        dataset.check_batch_size(batch_size)
        self._dataset = dataset
        self._size = batch_size
        self._seed = seed
        self._normalize = _Normalization(dataset)
        # Two epochs: replicas and late gradients reach back across the end of one epoch.
        self._order = functools.lru_cache(maxsize=2)(functools.partial(permutation, count, seed))

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self._dataset.train_x) // self._size

    def inputs(self, batch: int) -> torch.Tensor:
        """Inputs x_b, (B, *input_shape) float32, normalized."""
        raw = self._dataset.train_x[self._rows(batch)]
        vary = _VARIATIONS.get(self._dataset.augment)
        if vary is not None:
            raw = vary(raw, datasets.words(len(raw), self._seed, 0, batch))
        return self._normalize(raw)

    def labels(self, batch: int) -> torch.Tensor:
        """Labels y_b, (B,) int64."""
        return torch.from_numpy(self._dataset.train_y[self._rows(batch)])

    def _rows(self, batch: int) -> np.ndarray:
        epoch, place = divmod(batch, self.batches_per_epoch)
        return self._order(epoch)[place * self._size : (place + 1) * self._size]


def test_batches(  # pytest collects a function of this name wherever it is imported: import the module
    dataset: Dataset,
    size: int = 1000,  # noqa: PT028 - not a test
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the test set once, in order: x (B, *input_shape) float32, normalized, and y (B,) int64.

    B is `size`, or fewer in the last batch.
    """
    normalize = _Normalization(dataset)
    for start in range(0, len(dataset.test_x), size):
        part = slice(start, start + size)
        yield normalize(dataset.test_x[part]), torch.from_numpy(dataset.test_y[part].copy())


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
    """Map raw examples to (x * scale - mean) / std, computed as (x - mean / scale) * (scale / std)."""

    def __init__(self, dataset: Dataset) -> None:
        shift = [mean / dataset.scale for mean in dataset.mean]
        factor = [dataset.scale / std for std in dataset.std]
        self._shift, self._factor = _by_channel(shift), _by_channel(factor)

    def __call__(self, raw: np.ndarray) -> torch.Tensor:
        # astype always copies, so in-place arithmetic never changes the data set itself.
        return torch.from_numpy(raw.astype(np.float32)).sub_(self._shift).mul_(self._factor)


def _by_channel(values: list[float]) -> torch.Tensor:
    """A scalar for a single value, else (C, 1, 1)."""
    tensor = torch.tensor(values, dtype=torch.float32)
    return tensor[0] if len(values) == 1 else tensor[:, None, None]
