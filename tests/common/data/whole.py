"""Whole data sets in memory, for tests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from common.data.datasets import Dataset
from common.data.examples import Examples


class Whole(NamedTuple):
    """All inputs and targets of a data set."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def whole(dataset: Dataset) -> Whole:
    """Read all examples of a data set."""
    return Whole(*_read(dataset.train), *_read(dataset.test))


def _read(part: Examples) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(part))
    return part.inputs(rows), part.targets(rows)
