"""Data sets, loaded raw: bytes stay bytes until a batch is constructed.

Imports neither torch nor scikit-learn: each takes longer to import than a data set takes to load.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config.data import AUGMENTS, DATASETS, DataConfig
from common.config.sections import Config
from common.config.settings import nearest
from common.config.values import is_user_function
from common.data import user_data
from common.data.downloads import Source
from common.errors import ConfigError
from common.registry import import_implementation

_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """Classification data set of N training examples and a test set.

    Attributes:
        name: value of `data.dataset`.
        train_x: (N, *input_shape), uint8 or float32, raw.
        train_y: (N,) int64, the class of every example, from 0.
        test_x: test examples, as train_x.
        test_y: test labels, as train_y.
        mean: mean of the raw values times `scale`: one for every channel, or one for all.
        std: standard deviation of the raw values times `scale`, likewise.
        scale: factor that brings raw values to the units of `mean` and `std`.
        classes: number of classes.
        augment: variation of the training examples, a value of `data.augment`.
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
        """Shape of an example: (C, H, W) for images, (D,) for vectors."""
        return self.train_x.shape[1:]

    def check_fit(self, config: Config) -> None:
        """Check that a run with this data can begin: batch size and labels.

        A user's own labels must leave out no class, or a user's own network must have an output for each
        class that they leave out: a gap comes from examples that were to be ignored, such as those labelled
        255, and a network would train on these.

        Raises:
            ConfigError: too few examples, or labels with a gap.
        """
        self.check_batch_size(config.run.batch_size)
        if not is_user_function(self.name) or is_user_function(config.network.model):
            return
        seen = np.bincount(self.train_y, minlength=self.classes) + np.bincount(
            self.test_y, minlength=self.classes
        )
        if not seen.all():
            raise ConfigError(
                f"data.dataset: {self.name}: no example has the label {int(seen.argmin())}, but labels go up "
                f"to {self.classes - 1}; remove examples to be ignored and number the classes from 0 without "
                f"gaps, or give your own network.model with {self.classes} outputs"
            )

    def check_batch_size(self, batch_size: int) -> None:
        """Check that the training set has at least `batch_size` examples.

        Raises:
            ConfigError: the data set has fewer training examples.
        """
        count = len(self.train_x)
        if batch_size > count:
            raise ConfigError(
                f"run.batch_size: {batch_size} is more than the {count} training examples of {self.name}; "
                f"give at most {count}"
            )


def load(
    data: DataConfig, *, path: Path | None = None, code: Path | None = None, source: Source | None = None
) -> Dataset:
    """Load a configuration's data set.

    Args:
        data: section [data].
        path: folder that replaces `data.path` (a slave's `--data`).
        code: folder in which a user's file is searched first (a slave's `--code`).
        source: addresses that replace the published ones.

    Raises:
        ConfigError: the data set cannot be read, or its examples do not fit `data.augment`.
    """
    dataset = _load_raw(data, path, code, source)
    if AUGMENTS[data.augment].needs_images and len(dataset.input_shape) != 3:
        raise ConfigError(
            f"data.augment: {data.augment} is for images (channels, height, width), but the data's examples "
            f'are {dataset.input_shape}; choose "none"'
        )
    return dataclasses.replace(dataset, augment=data.augment)


def _load_raw(data: DataConfig, path: Path | None, code: Path | None, source: Source | None) -> Dataset:
    folder = _folder(data, path)
    if is_user_function(data.dataset):
        return _load_user(data.dataset, code)
    if data.dataset not in DATASETS:
        raise ConfigError(f"data.dataset: {data.dataset} is not known{nearest(data.dataset, DATASETS)}")
    dataset: Dataset = import_implementation("common.data.sets", data.dataset).load(folder, source)
    return dataset


def permutation(count: int, seed: int, stream: int) -> np.ndarray:
    """Permute the numbers 0..count-1 as a pure function of the arguments: (count,) int64."""
    return np.argsort(words(count, seed, stream), kind="stable")


def words(count: int, seed: int, *stream: int) -> np.ndarray:
    """Draw random words, (count,) uint64, as a pure function of the arguments.

    Numpy promises equal words from release to release, but not equal results of its generators' other
    methods, and two slaves may run different releases.
    """
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream)).random_raw(count)


def mean_and_std(x: np.ndarray, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of `x * scale`: by channel for images (N, C, H, W), else a single value.

    Constant values get the raw deviation 1, so that they can be divided by it.
    """
    axes, count = ((0, 2, 3), x[:, :1].size) if x.ndim == 4 else (None, x.size)
    sums = squares = np.zeros(())
    # Blocks bound the memory; sums of bytes are exact in float64, hence equal on every machine.
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
    # Below a millionth of the mean, float32 holds only rounding.
    return std if std > 1e-6 * abs(mean) else 1.0


def _folder(data: DataConfig, path: Path | None) -> Path | None:
    if path is None and data.path is None:
        return None
    folder, key = (path, "--data") if path is not None else (Path(str(data.path)), "data.path")
    if not folder.is_dir():
        raise ConfigError(
            f"{key}: {folder} is not a folder; give the folder that holds the files of {data.dataset}"
        )
    return folder


def _load_user(spec: str, code: Path | None) -> Dataset:
    train_x, train_y, test_x, test_y = user_data.load(spec, code)
    scale = 1 / 255 if train_x.dtype == np.uint8 else 1.0
    mean, std = mean_and_std(train_x, scale)
    classes, examples = int(max(train_y.max(), test_y.max())) + 1, len(train_y) + len(test_y)
    if classes > examples:  # before a network of so many outputs takes memory
        raise ConfigError(
            f"data.dataset: {spec}: the labels go up to {classes - 1}, but there are {examples} examples; "
            "number the classes from 0 without gaps"
        )
    return Dataset(spec, train_x, train_y, test_x, test_y, mean, std, scale, classes)
