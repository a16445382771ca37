"""Examples that stay in files or come from the user's code: brought into form as rows are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.data.examples import Medium
from common.errors import ConfigError


class Rows(Protocol):
    """Raw rows of a training or test set."""

    @property
    def medium(self) -> Medium:
        """Place of the rows."""

    def __len__(self) -> int: ...

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Read raw inputs, (n, ...), into an array that belongs to the caller."""

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read raw targets, (n, ...), likewise."""


@dataclass(frozen=True)
class Form:
    """Final form of inputs or targets.

    Attributes:
        shape: of an example.
        dtype: uint8, float32 or int64.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @staticmethod
    def of_inputs(raw: np.ndarray) -> Form | None:
        """Find the form of inputs; (N, H, W) of bytes or floats become images. None without a form."""
        if raw.ndim < 2 or not raw.size or raw.dtype.kind not in "iuf":
            return None
        if raw.dtype != np.uint8 and raw.dtype.kind != "f":
            return Form(raw.shape[1:], np.dtype(np.int64))
        dtype = raw.dtype if raw.dtype == np.uint8 else np.dtype(np.float32)
        return Form((1, *raw.shape[1:]) if raw.ndim == 3 else raw.shape[1:], dtype)

    @staticmethod
    def of_targets(raw: np.ndarray) -> Form | None:
        """Find the form of targets, int64 for whole numbers, else float32; None without numbers."""
        if raw.dtype.kind not in "biuf":
            return None
        return Form(raw.shape[1:], np.dtype(np.float32 if raw.dtype.kind == "f" else np.int64))

    def fit(self, raw: np.ndarray, where: str) -> np.ndarray:
        """Bring rows into form.

        Raises:
            ConfigError: rows of another shape, NaN, or numbers too large for float32.
        """
        if raw.shape[1:] != self.shape and (1, *raw.shape[1:]) != self.shape:
            raise ConfigError(
                f"{where} has the shapes {self.shape} and {raw.shape[1:]}; give all the same shape"
            )
        with np.errstate(over="ignore"):
            values = raw.astype(self.dtype, copy=False).reshape(len(raw), *self.shape)
        if self.dtype.kind == "f" and not np.isfinite(values).all():
            raise ConfigError(f"{where} holds NaN, infinity or a number too large for float32; remove it")
        return values


@dataclass(frozen=True, eq=False)
class Lazy:
    """Examples of raw rows, checked as they are read, since no process reads all.

    Attributes:
        rows: raw.
        name: of the set, for a refusal.
        input_form: of inputs.
        target_form: of targets.
        classes: whole targets are below; None: any.
        stride: as of `Examples`.
    """

    rows: Rows
    name: str
    input_form: Form
    target_form: Form
    classes: int | None = None
    stride: int = 1

    @staticmethod
    def of(rows: Rows, name: str) -> Lazy:
        """Find the form of examples by the first one.

        Raises:
            ConfigError: no example, or an example that cannot be trained on.
        """
        if not len(rows):
            raise ConfigError(f"{name} is empty; give at least one example")
        first = np.zeros(1, np.int64)
        x, y = rows.inputs(first), rows.targets(first)
        input_form, target_form = Form.of_inputs(x), Form.of_targets(y)
        if input_form is None or target_form is None:
            raise ConfigError(
                f"{name} begins with the input {_describe(x)} and the target {_describe(y)}; an input must "
                "be an array of uint8, floating point or whole numbers, a target a number or an array"
            )
        return Lazy(rows, name, input_form, target_form)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def medium(self) -> Medium:
        """Place of the examples."""
        return self.rows.medium

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an example."""
        return self.input_form.shape

    @property
    def input_dtype(self) -> np.dtype:
        """Dtype of raw inputs."""
        return self.input_form.dtype

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of an example's target."""
        return self.target_form.shape

    @property
    def target_dtype(self) -> np.dtype:
        """Dtype of targets."""
        return self.target_form.dtype

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Read raw inputs.

        Raises:
            ConfigError: rows that do not fit the first one, NaN, or an error of the rows' source.
        """
        return self.input_form.fit(self.rows.inputs(rows), f"{self.name}: the input")

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read targets; errors as of `inputs`, and a label beyond the classes."""
        values = self.target_form.fit(self.rows.targets(rows), f"{self.name}: the target")
        if self.classes is not None and values.dtype.kind == "i" and values.max(initial=0) >= self.classes:
            raise ConfigError(
                f"{self.name} holds the label {values.max()}, but has {self.classes} classes, numbered "
                "from 0; correct the label, or the attribute `classes`"
            )
        return values


def _describe(first: np.ndarray) -> str:
    return f"{first.dtype} {first.shape[1:]}"
