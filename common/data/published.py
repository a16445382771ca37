"""Published data sets of ten classes: download addresses, formats and statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.config.data import DataConfig
from common.data import downloads, idx
from common.data.datasets import Dataset
from common.data.downloads import Source
from common.data.examples import Arrays
from common.data.statistics import Scaling
from common.errors import ConfigError
from common.signals.forms import PLAIN

FourArrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Published:
    """A published data set of ten classes.

    Attributes:
        name: row of `DATASETS`.
        source: addresses and checksums of the files.
        missing: lists the files that a folder lacks.
        read: reads train_x, train_y, test_x, test_y from a complete folder.
        mean: published mean of the training pixels, scaled so that white is 1: one for every channel.
        std: published standard deviation, likewise.
    """

    name: str
    source: Source
    missing: Callable[[Path], list[str]]
    read: Callable[[Path], FourArrays]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def load(self, data: DataConfig, folder: Path | None, source: Source | None) -> Dataset:  # noqa: ARG002
        """Load from a folder; None: from the user's cache, downloaded if needed.

        Args:
            data: section [data]; every data set is loaded alike.
            folder: folder of the files.
            source: addresses that replace the published ones.

        Raises:
            ConfigError: a file is missing and cannot be downloaded, or has other contents than expected.
        """
        published = self if source is None else replace(self, source=source)
        x, y, t, u = published._read_arrays(folder)
        scaling = Scaling(self.mean, self.std, 1 / 255)
        return Dataset(self.name, Arrays({PLAIN: x}, y), Arrays({PLAIN: t}, u), {PLAIN: scaling}, 10)

    def _read_arrays(self, folder: Path | None) -> FourArrays:
        if folder is None:
            folder = downloads.cache(self.name)
            if self.missing(folder):
                downloads.fetch(self.name, self.source, self._list_wanted(folder), folder)
        lacking = self.missing(folder)
        if lacking:
            raise ConfigError(
                f"{folder}: lacks {', '.join(lacking)} of {self.name}; get {', '.join(self.source.files)} "
                f"from {' or '.join(self.source.homes)}, or remove data.path so that they are downloaded"
            )
        return self.read(folder)

    def _list_wanted(self, folder: Path) -> list[str]:
        lacking = set(self.missing(folder))
        # CIFAR-10 is read as loose files but published as one archive.
        return [file for file in self.source.files if file in lacking] or list(self.source.files)


def describe_idx(
    name: str, homes: tuple[str, ...], md5s: tuple[str, str, str, str], mean: float, std: float
) -> Published:
    """Describe a data set in MNIST's file format; `md5s` are those of `idx.FILES`, gzipped."""
    files = {f"{file}.gz": md5 for file, md5 in zip(idx.FILES, md5s, strict=True)}
    return Published(name, Source(homes, files), idx.missing, idx.read, (mean,), (std,))
