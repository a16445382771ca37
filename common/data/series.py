"""Windows of T steps of a user's series: a row of the data is a step. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.data.examples import Examples, Medium
from common.data.forms import Form
from common.data.windows import ShortTextError


@dataclass(frozen=True, eq=False)
class Windows:
    """Examples that are windows of T rows of other examples, inputs and targets alike.

    Attributes:
        steps: rows of the series, in order.
        length: T.
        spacing: steps from the start of a window to the start of the next.
    """

    steps: Examples
    length: int
    spacing: int

    def __len__(self) -> int:
        return (len(self.steps) - self.length) // self.spacing + 1

    @property
    def input_forms(self) -> Mapping[str, Form]:
        """Form of raw inputs, (T, ...) each."""
        forms = self.steps.input_forms.items()
        return {name: Form((self.length, *form.shape), form.dtype) for name, form in forms}

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of an example's target, (T, ...)."""
        return (self.length, *self.steps.target_shape)

    @property
    def target_dtype(self) -> np.dtype:
        """Dtype of targets."""
        return self.steps.target_dtype

    @property
    def stride(self) -> int:
        """Distance of an epoch's windows: T, as far as there are so many."""
        return max(1, min(self.length // self.spacing, len(self)))

    @property
    def medium(self) -> Medium:
        """Place of the rows."""
        return self.steps.medium

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read raw inputs, (n, T, ...) each."""
        read = self.steps.inputs(self._steps(rows))
        return {name: self._cut(array) for name, array in read.items()}

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read targets, (n, T, ...)."""
        return self._cut(self.steps.targets(self._steps(rows)))

    def _steps(self, rows: np.ndarray) -> np.ndarray:
        steps: np.ndarray = rows[:, None] * self.spacing + np.arange(self.length)
        return steps.ravel()

    def _cut(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, self.length, *array.shape[1:])


def cut_series(train: Examples, test: Examples, length: int, source: str) -> tuple[Windows, Windows]:
    """Cut the rows of both parts into windows: of training one from every row on, of tests side by side.

    Args:
        train: rows of training, in order.
        test: rows of tests, in order.
        length: T.
        source: of the rows, for a refusal.

    Raises:
        ShortTextError: a part has fewer than T rows.
    """
    for part, name in ((train, "training"), (test, "test")):
        if len(part) < length:
            raise ShortTextError(
                f"{length} needs {length} rows at least, each a step, but the {name} set of {source} has "
                f"{len(part)}; give a smaller number, or more rows"
            )
    return Windows(train, length, 1), Windows(test, length, length)
