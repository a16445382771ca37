"""The public data sets that come in files: where they are to be had, and how a folder of one is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data import cifar10, downloads, idx
from common.data.downloads import Source
from common.errors import ConfigError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Published:
    """What is known of a public data set of ten classes.

    Attributes:
        source: where its files are.
        missing: the files that a folder lacks.
        read: train_x, train_y, test_x, test_y of a folder that lacks none.
        mean: of its training pixels, 1 being white, as published: one a channel.
        std: standard deviation, likewise.
    """

    source: Source
    missing: Callable[[Path], list[str]]
    read: Callable[[Path], Arrays]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _idx(homes: tuple[str, ...], md5s: tuple[str, str, str, str], mean: float, std: float) -> Published:
    files = {f"{name}.gz": md5 for name, md5 in zip(idx.FILES, md5s, strict=True)}
    return Published(Source(homes, files), idx.missing, idx.read, (mean,), (std,))


PUBLISHED: Mapping[str, Published] = {
    "mnist": _idx(
        homes=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        md5s=(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        mean=0.1307,
        std=0.3081,
    ),
    "fashion-mnist": _idx(
        homes=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        md5s=(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        mean=0.2860,
        std=0.3530,
    ),
    "cifar10": Published(
        Source(("https://www.cs.toronto.edu/~kriz/",), {cifar10.ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530"}),
        cifar10.missing,
        cifar10.read,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
}


def arrays(name: str, known: Published, folder: Path | None) -> Arrays:
    """train_x, train_y, test_x, test_y of a folder; without one, of the user's cache, filled by downloads.

    Raises:
        ConfigError: a file is missing and cannot be downloaded, or is not what it should be.
    """
    if folder is None:
        folder = downloads.cache(name)
        if known.missing(folder):
            downloads.fetch(name, known.source, _to_fetch(known, folder), folder)
    lacking = known.missing(folder)
    if lacking:
        raise ConfigError(
            f"{folder}: lacks {', '.join(lacking)} of {name}; get {', '.join(known.source.files)} from "
            f"{' or '.join(known.source.homes)}, or leave data.path out to have them downloaded"
        )
    return known.read(folder)


def _to_fetch(known: Published, folder: Path) -> list[str]:
    lacking = set(known.missing(folder))
    # CIFAR-10 is used as loose files but published as one archive.
    return [file for file in known.source.files if file in lacking] or list(known.source.files)
