"""Handwritten digits of scikit-learn, 8x8."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from common.config.data import DataConfig
from common.data.datasets import Dataset
from common.data.downloads import Source
from common.data.examples import Arrays
from common.data.orders import permutation
from common.data.statistics import Scaling, mean_and_std
from common.errors import ConfigError
from common.signals.forms import PLAIN

# Results are comparable on one split alone, so the split is fixed for all runs; any number would do.
_SPLIT = 0
_TRAIN = 1437


def load(data: DataConfig, path: Path | None, source: Source | None) -> Dataset:  # noqa: ARG001 - no choice
    """Read the digits from scikit-learn's package.

    Raises:
        ConfigError: scikit-learn is missing or damaged.
    """
    table = _read_table()
    images = np.ascontiguousarray(table[:, :-1]).reshape(-1, 1, 8, 8)
    labels = table[:, -1].astype(np.int64)
    order = permutation(len(table), _SPLIT, 0)
    train, test = order[:_TRAIN], order[_TRAIN:]
    scaling = Scaling(*mean_and_std(images[train], 1 / 16), 1 / 16)
    train_set, test_set = (Arrays({PLAIN: images[rows]}, labels[rows]) for rows in (train, test))
    return Dataset("digits", train_set, test_set, {PLAIN: scaling}, 10)


def _read_table() -> np.ndarray:
    """Read (1797, 65) uint8: 64 pixels of 0 to 16 and the label."""
    sklearn = importlib.util.find_spec("sklearn")
    if sklearn is None or not sklearn.submodule_search_locations:
        raise ConfigError("data.dataset: digits is a part of scikit-learn; pip install scikit-learn")
    file = Path(sklearn.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, dtype=np.uint8, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); install scikit-learn again") from None
    if table.shape != (1797, 65):
        raise ConfigError(f"{file}: holds {table.shape}, not 1797 x 65 numbers; install scikit-learn again")
    return table
