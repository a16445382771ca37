"""Data sets, loaded raw: bytes stay bytes until a batch is made of them.

Imports neither torch nor scikit-learn: each takes longer to import than a data set takes to load.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import sections
from common.config.settings import is_user_function, nearest
from common.data import published, user_data
from common.data.published import PUBLISHED, Published
from common.errors import ConfigError

# Results compare only on one and the same split, so it is fixed for all runs; any number would do.
_DIGITS_SPLIT = 0
_DIGITS_TRAIN = 1437
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set of N training examples, and as many test examples as it has.

    Attributes:
        name: as in `data.dataset`.
        train_x: (N, *input_shape), uint8 or float32, raw.
        train_y: (N,) int64, the class of each, from 0.
        test_x: as train_x.
        test_y: as train_y.
        mean: of the raw values times `scale`: one a channel, or one for all.
        std: standard deviation, likewise.
        scale: what raw values are multiplied by for `mean` and `std` to speak of them.
        classes: how many classes there are.
        augment: how the training examples are varied, as in `data.augment`.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    classes: int
    augment: str = "none"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example: (C, H, W) for images, (D,) for vectors."""
        return self.train_x.shape[1:]

    def check_batch_size(self, batch_size: int) -> None:
        """Whether a batch of `batch_size` examples can be made.

        Raises:
            ConfigError: the data set has fewer training examples.
        """
        count = len(self.train_x)
        if batch_size > count:
            raise ConfigError(
                f"run.batch_size: {batch_size} is more than the {count} training examples of {self.name}; "
                f"at most {count} can be taken"
            )


def load(
    data: sections.Data,
    *,
    path: Path | None = None,
    code: Path | None = None,
    known: Mapping[str, Published] = PUBLISHED,
) -> Dataset:
    """Load the data set that a configuration names.

    Args:
        data: the configuration's section.
        path: a folder that takes the place of `data.path` (a slave's `--data`).
        code: a folder in which a user's file is looked up first (a slave's `--code`).
        known: the public data sets and their homes.

    Raises:
        ConfigError: the data cannot be had, or is not what it should be.
    """
    dataset = _unvaried(data, path, code, known)
    if data.augment != "none" and len(dataset.input_shape) != 3:
        raise ConfigError(
            f"data.augment: {data.augment} is for images (channels, height, width), but the data's examples "
            f'are {dataset.input_shape}; choose "none"'
        )
    return dataclasses.replace(dataset, augment=data.augment)


def _unvaried(
    data: sections.Data, path: Path | None, code: Path | None, known: Mapping[str, Published]
) -> Dataset:
    folder = _folder(data, path)
    if is_user_function(data.dataset):
        return _user(data.dataset, code)
    if data.dataset == "digits":
        return _digits()
    if data.dataset not in known:
        raise ConfigError(f"data.dataset: {data.dataset} is not known{nearest(data.dataset, known)}")
    public = known[data.dataset]
    arrays = published.arrays(data.dataset, public, folder)
    return Dataset(data.dataset, *arrays, public.mean, public.std, 1 / 255, 10)


def shuffled(count: int, seed: int, stream: int) -> np.ndarray:
    """The numbers 0..count-1 in an order that is a pure function of the arguments, (count,) int64."""
    return np.argsort(words(count, seed, stream), kind="stable")


def words(count: int, seed: int, *stream: int) -> np.ndarray:
    """Random words, (count,) uint64, that are a pure function of the arguments.

    Numpy promises that these stay the same from release to release, but not what its generators make of them,
    and two slaves need not have the same release.
    """
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream)).random_raw(count)


def measured(x: np.ndarray, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of `x * scale`: one a channel of images (N, C, H, W), else one.

    What does not vary is given the raw deviation 1, so that it can be divided by.
    """
    axes, count = ((0, 2, 3), x[:, :1].size) if x.ndim == 4 else (None, x.size)
    sums = squares = np.zeros(())
    # In blocks, for memory; sums of bytes are exact in float64, and so the same on every machine.
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK].astype(np.float64)
        sums = sums + block.sum(axis=axes)
        squares = squares + np.square(block).sum(axis=axes)
    means = np.atleast_1d(sums / count)
    variances = np.atleast_1d(squares / count) - means**2
    std = [_divisor(mean, variance) for mean, variance in zip(means, variances, strict=True)]
    return tuple(float(mean * scale) for mean in means), tuple(each * scale for each in std)


def _divisor(mean: float, variance: float) -> float:
    std = math.sqrt(max(variance, 0.0))
    # Below a millionth of the mean float32 holds rounding and nothing else.
    return std if std > 1e-6 * abs(mean) else 1.0


def _folder(data: sections.Data, path: Path | None) -> Path | None:
    if path is None and data.path is None:
        return None
    folder, key = (path, "--data") if path is not None else (Path(str(data.path)), "data.path")
    if not folder.is_dir():
        raise ConfigError(
            f"{key}: {folder} is no folder; give the one that holds the files of {data.dataset}"
        )
    return folder


def _user(spec: str, code: Path | None) -> Dataset:
    train_x, train_y, test_x, test_y = user_data.load(spec, code)
    scale = 1 / 255 if train_x.dtype == np.uint8 else 1.0
    mean, std = measured(train_x, scale)
    classes = int(max(train_y.max(), test_y.max())) + 1
    return Dataset(spec, train_x, train_y, test_x, test_y, mean, std, scale, classes)


def _digits() -> Dataset:
    table = _digits_table()
    images = np.ascontiguousarray(table[:, :-1]).reshape(-1, 1, 8, 8)
    labels = table[:, -1].astype(np.int64)
    order = shuffled(len(table), _DIGITS_SPLIT, 0)
    train, test = order[:_DIGITS_TRAIN], order[_DIGITS_TRAIN:]
    mean, std = measured(images[train], 1 / 16)
    return Dataset("digits", images[train], labels[train], images[test], labels[test], mean, std, 1 / 16, 10)


def _digits_table() -> np.ndarray:
    """Scikit-learn's handwritten digits: (1797, 65) uint8, 64 pixels of 0 to 16 and the label."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("data.dataset: digits is a part of scikit-learn; pip install scikit-learn")
    file = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, dtype=np.uint8, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); install scikit-learn again") from None
    if table.shape != (1797, 65):
        raise ConfigError(f"{file}: holds {table.shape}, not 1797 x 65 numbers; install scikit-learn again")
    return table
