"""Examples that stay in files or come from the user's code: brought into form as rows are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.data.examples import Medium
from common.data.forms import Form, quote
from common.errors import ConfigError


class Rows(Protocol):
    """Raw rows of a training or test set."""

    @property
    def medium(self) -> Medium:
        """Place of the rows."""

    def __len__(self) -> int: ...

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read raw inputs by name, each (n, ...), into arrays that belong to the caller."""

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read raw targets, (n, ...), into an array that belongs to the caller."""


@dataclass(frozen=True, eq=False)
class Lazy:
    """Examples of raw rows, checked as they are read, since no process reads all.

    Attributes:
        rows: raw.
        name: of the set, for a refusal.
        input_forms: of inputs, by name.
        target_form: of targets.
        classes: whole targets are below; None: any.
        stride: as of `Examples`.
    """

    rows: Rows
    name: str
    input_forms: Mapping[str, Form]
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
        forms, target_form = {key: Form.of_inputs(each, key) for key, each in x.items()}, Form.of_targets(y)
        input_forms = {key: form for key, form in forms.items() if form is not None}
        if len(input_forms) < len(x) or target_form is None:
            key = next((key for key in x if key not in input_forms), next(iter(x)))
            masks = " (or booleans)" if quote(key) else ""
            raise ConfigError(
                f"{name} begins with the input{quote(key)} {_describe_first(x[key])} and the target "
                f"{_describe_first(y)}; an input must be an array of uint8, floating point or whole numbers"
                f"{masks}, a target a number or an array"
            )
        return Lazy(rows, name, input_forms, target_form)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def medium(self) -> Medium:
        """Place of the examples."""
        return self.rows.medium

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of an example's target."""
        return self.target_form.shape

    @property
    def target_dtype(self) -> np.dtype:
        """Dtype of targets."""
        return self.target_form.dtype

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read raw inputs.

        Raises:
            ConfigError: rows that do not fit the first one, NaN, or an error of the rows' source.
        """
        return {
            key: self.input_forms[key].fit(raw, f"{self.name}: the input{quote(key)}")
            for key, raw in self.rows.inputs(rows).items()
        }

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read targets; errors as of `inputs`, and a label beyond the classes."""
        values = self.target_form.fit(self.rows.targets(rows), f"{self.name}: the target")
        if self.classes is not None and values.dtype.kind == "i" and values.max(initial=0) >= self.classes:
            raise ConfigError(
                f"{self.name} holds the label {values.max()}, but has {self.classes} classes, numbered "
                "from 0; correct the label, or the attribute `classes`"
            )
        return values


def _describe_first(rows: np.ndarray) -> str:
    return f"{rows.dtype} {rows.shape[1:]}"
