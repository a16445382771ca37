"""Encoded text: train.bin and val.bin of uint16, as nanoGPT writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.config.data import DataConfig
from common.data.datasets import Dataset
from common.data.downloads import Source
from common.data.examples import Arrays
from common.data.forms import Form
from common.data.lazy import Lazy
from common.data.mapped import MappedRows, open_column
from common.data.pointers import explain_pointer, holds_pointer
from common.data.windows import consecutive_windows, overlapping_windows
from common.errors import ConfigError
from common.signals.forms import PLAIN

FILES = ("train.bin", "val.bin")
_DTYPE = np.dtype("<u2")
_BLOCK = 1 << 20


def load(data: DataConfig, path: Path | None, source: Source | None) -> Dataset:  # noqa: ARG001 - no download
    """Map the files of a folder; `meta.pkl` is never read.

    The size of the vocabulary is `data.vocabulary`, or the largest token + 1: both files are scanned once.

    Raises:
        ConfigError: a file that cannot be mapped or has no window, or a token beyond the vocabulary.
    """
    assert path is not None
    train, test = (_map(path / name) for name in FILES)
    size = _check_vocabulary(data.vocabulary, (train, test), path)
    names = [str(path / name) for name in FILES]
    return Dataset(
        data.dataset,
        _read_by_row(overlapping_windows(train, data.steps, names[0]), size, names[0]),
        _read_by_row(consecutive_windows(test, data.steps, names[1]), size, names[1]),
        {},
        size,
    )


def _read_by_row(windows: Arrays, size: int, name: str) -> Lazy:
    form = Form(windows.target_shape, np.dtype(np.int64))
    return Lazy(MappedRows.of(windows.x, windows.y), name, {PLAIN: form}, form, size, windows.stride)


def _map(file: Path) -> np.ndarray:
    try:
        if holds_pointer(file):
            raise ConfigError(f"data.path: {explain_pointer(file)}")
        size = file.stat().st_size
        if size == 0 or size % _DTYPE.itemsize:
            raise ConfigError(
                f"data.path: {file} has {size} bytes, which are no numbers of uint16; write the file again"
            )
        return np.memmap(file, _DTYPE, "r")
    except OSError as error:
        raise ConfigError(
            f"data.path: {file} cannot be read: {error.strerror or error}; give the folder of train.bin and "
            "val.bin"
        ) from None


def _check_vocabulary(size: int | None, parts: tuple[np.ndarray, np.ndarray], folder: Path) -> int:
    largest = dict(zip(FILES, map(_largest, parts), strict=True))
    needed = 1 + max(largest.values())
    if size is not None and needed > size:
        name = max(largest, key=lambda name: largest[name])
        raise ConfigError(
            f"data.vocabulary: {size} is too small: {folder / name} holds the token {needed - 1}; give at "
            f"least {needed}"
        )
    return size or needed


def _largest(tokens: np.ndarray) -> int:
    column = open_column(tokens)
    starts = range(0, len(tokens), _BLOCK)
    return max(int(column.read(np.arange(start, min(start + _BLOCK, len(tokens)))).max()) for start in starts)
