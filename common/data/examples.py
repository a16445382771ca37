"""Examples of a training or test set, read by row: raw inputs and targets.

Imports no torch. A row is the number of an example; the rows of a read are int64 and may repeat. Inputs are
arrays by name of the tensor; plain inputs are one array, under `PLAIN`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from common.data.forms import Form


class Medium(Enum):
    """Place of examples."""

    MEMORY = "memory"  # reading waits for nothing
    FILE = "file"  # reading may wait for a disk
    CODE = "code"  # reading runs code of the user, an example at a time


class Examples(Protocol):
    """N examples, read by row and never as a whole."""

    @property
    def input_forms(self) -> Mapping[str, Form]:
        """Form of raw inputs by name: (C, H, W) for images, (D,) for vectors, (T,) for tokens."""

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of an example's target; () for a class."""

    @property
    def target_dtype(self) -> np.dtype:
        """Dtype of targets, int64 or float32."""

    @property
    def stride(self) -> int:
        """Distance of an epoch's examples, since nearer rows overlap; 1: an epoch takes every row."""

    @property
    def medium(self) -> Medium:
        """Place of the examples."""

    def __len__(self) -> int: ...

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read raw inputs by name, each (n, *shape), into arrays that belong to the caller."""

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read targets, (n, *target_shape), into an array that belongs to the caller."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples in arrays.

    Attributes:
        x: by name, each (N, *shape), contiguous.
        y: (N, *target_shape), float32 or whole numbers, read as int64.
        stride: as of `Examples`.
        medium: likewise.
    """

    x: Mapping[str, np.ndarray]
    y: np.ndarray
    stride: int = 1
    medium: Medium = Medium.MEMORY

    def __len__(self) -> int:
        return len(self.y)

    @property
    def input_forms(self) -> Mapping[str, Form]:
        """Form of raw inputs."""
        return {name: Form(array.shape[1:], array.dtype) for name, array in self.x.items()}

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of an example's target."""
        return self.y.shape[1:]

    @property
    def target_dtype(self) -> np.dtype:
        """Dtype of targets."""
        return np.dtype(np.float32 if self.y.dtype.kind == "f" else np.int64)

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read raw inputs."""
        return {name: array[rows] for name, array in self.x.items()}

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read targets."""
        read: np.ndarray = self.y[rows]
        return read.astype(self.target_dtype, copy=False)


def epoch_length(examples: Examples) -> int:
    """Return the number of examples that an epoch takes."""
    return len(examples) // examples.stride


def input_bytes(examples: Examples) -> int:
    """Return the bytes of an example's raw input."""
    return sum(form.nbytes for form in examples.input_forms.values())


def target_bytes(examples: Examples) -> int:
    """Return the bytes of an example's target."""
    return math.prod(examples.target_shape) * examples.target_dtype.itemsize


def cover(examples: Examples) -> np.ndarray:
    """Return rows that together hold all of the examples, with few repeats where rows overlap."""
    rows = np.arange(0, len(examples), examples.stride)
    return rows if rows[-1] == len(examples) - 1 else np.append(rows, len(examples) - 1)
