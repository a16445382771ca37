"""(seed, b) -> x_b, y_b: every process makes the same mini-batches by itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch

from common.data import datasets
from common.data.datasets import Dataset, shuffled

# The pixels that a crop may move an image by, as He et al. (2016) trained on CIFAR-10.
BORDER = 4


class Batches:
    """The run's mini-batches of B examples: batch b is a pure function of (seed, b).

    Every epoch goes through the training set in an order of its own; the examples left over at its end, fewer
    than B, are dropped.
    """

    def __init__(self, dataset: Dataset, seed: int, batch_size: int) -> None:
        """Batches of `batch_size` (B) examples in the orders that `seed` gives.

        Raises:
            ConfigError: the data set has fewer than B training examples.
        """
        count = len(dataset.train_x)
        dataset.check_batch_size(batch_size)
        self._dataset = dataset
        self._size = batch_size
        self._seed = seed
        self._normalize = _Normalization(dataset)
        # Two epochs: replicas and late gradients look back across one epoch's end.
        self._order = functools.lru_cache(maxsize=2)(functools.partial(shuffled, count, seed))

    @property
    def an_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._dataset.train_x) // self._size

    def inputs(self, batch: int) -> torch.Tensor:
        """x_b, (B, *input_shape) float32, normalized."""
        raw = self._dataset.train_x[self._rows(batch)]
        vary = _VARIATIONS.get(self._dataset.augment)
        if vary is not None:
            raw = vary(raw, datasets.words(len(raw), self._seed, 0, batch))
        return self._normalize(raw)

    def labels(self, batch: int) -> torch.Tensor:
        """y_b, (B,) int64."""
        return torch.from_numpy(self._dataset.train_y[self._rows(batch)])

    def _rows(self, batch: int) -> np.ndarray:
        epoch, place = divmod(batch, self.an_epoch)
        return self._order(epoch)[place * self._size : (place + 1) * self._size]


def test_batches(  # a name that pytest collects where it is imported: import the module
    dataset: Dataset,
    size: int = 1000,  # noqa: PT028 - it is no test
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The test set in its own order, once: x (B, *input_shape) float32, normalized, and y (B,) int64.

    B is `size`, and what is left over in the last.
    """
    normalize = _Normalization(dataset)
    for start in range(0, len(dataset.test_x), size):
        part = slice(start, start + size)
        yield normalize(dataset.test_x[part]), torch.from_numpy(dataset.test_y[part].copy())


def cropped_and_flipped(images: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W), each with a border of `BORDER` zeros cut to H x W again and one in two mirrored.

    The place and the side of each are read from its own word, of (N,) random ones.
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


# By rows of `common.config.data.AUGMENTS`; a row that is not here leaves examples as they are.
_VARIATIONS = {"crop-flip": cropped_and_flipped}


class _Normalization:
    """Raw examples to (x * scale - mean) / std, as x - mean / scale times scale / std."""

    def __init__(self, dataset: Dataset) -> None:
        shift = [mean / dataset.scale for mean in dataset.mean]
        factor = [dataset.scale / std for std in dataset.std]
        self._shift, self._factor = _by_channel(shift), _by_channel(factor)

    def __call__(self, raw: np.ndarray) -> torch.Tensor:
        # astype always copies, so that the data set itself is never changed in place.
        return torch.from_numpy(raw.astype(np.float32)).sub_(self._shift).mul_(self._factor)


def _by_channel(values: list[float]) -> torch.Tensor:
    """A scalar, or (C, 1, 1)."""
    tensor = torch.tensor(values, dtype=torch.float32)
    return tensor[0] if len(values) == 1 else tensor[:, None, None]
