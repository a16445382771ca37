"""Whole data sets of plain inputs in memory, for tests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from common.data.datasets import Dataset
from common.data.examples import Examples
from common.signals.forms import PLAIN
from common.signals.values import Signal


class Whole(NamedTuple):
    """All inputs and targets of a data set."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def whole(dataset: Dataset) -> Whole:
    """Read all examples of a data set."""
    return Whole(*_read(dataset.train), *_read(dataset.test))


def tensor(signal: Signal) -> Tensor:
    """Return the tensor of plain inputs."""
    assert isinstance(signal, Tensor)
    return signal


def _read(part: Examples) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(part))
    return part.inputs(rows)[PLAIN], part.targets(rows)
