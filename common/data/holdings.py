"""Holdings of a process: digests of its data and of its user's files, and its versions.

BLAKE2b reads about 0.5 GB a second: half a second, once a process, for the largest data set read as a whole.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from common.config.sections import Config
from common.config.user_files import digest_files
from common.config.values import is_user_function
from common.data import datasets
from common.data.datasets import Dataset
from common.versions import installed_versions
from common.wire.messages import Holdings

# Data sets beyond this size are compared by a sample of their rows.
MOST_BYTES = 256 << 20
SAMPLED_ROWS = 1000
_BLOCK_BYTES = 1 << 20
_ARRAYS = ("train_x", "train_y", "test_x", "test_y")


def take_stock(config: Config, dataset: Dataset, code: Path | None = None) -> Holdings:
    """Return what this process works with.

    Args:
        config: of the run.
        dataset: of the run, as loaded here.
        code: folder in which a user's file is searched first.

    Raises:
        ConfigError: a user's file is missing.
    """
    return Holdings(digest_data(dataset), _digest_files(config, code), installed_versions())


def digest_data(dataset: Dataset, most: int = MOST_BYTES) -> dict[str, str]:
    """Describe every array of a data set by dtype, shape and digest.

    Args:
        dataset: read in memory.
        most: bytes of a data set that is digested as a whole. Of a larger one the digests cover the first
            row, the last, and `SAMPLED_ROWS` rows by a fixed seed.
    """
    arrays = {name: getattr(dataset, name) for name in _ARRAYS}
    whole = sum(array.nbytes for array in arrays.values()) <= most
    return {name: _describe(array, whole=whole) for name, array in arrays.items()}


def _describe(array: np.ndarray, *, whole: bool) -> str:
    rows = array if whole else array[_sampled(len(array))]
    kind = "digest" if whole else "digest of a sample"
    return f"{array.dtype} {array.shape} with {kind} {_digest(rows)}"


def _sampled(count: int) -> np.ndarray:
    """Choose the rows of a sample of `count` rows, a pure function."""
    drawn = datasets.words(SAMPLED_ROWS, 0) % np.uint64(count)
    return np.concatenate([[0], drawn.astype(np.int64), [count - 1]])


def _digest(array: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=8)
    rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[start : start + rows]).data)
    return digest.hexdigest()


def _digest_files(config: Config, code: Path | None) -> dict[str, str]:
    keys = {"network.model": config.network.model, "data.dataset": config.data.dataset}
    return {
        f"{key} {name}": digest
        for key, spec in keys.items()
        if is_user_function(spec)
        for name, digest in digest_files(spec, code).items()
    }
