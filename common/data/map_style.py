"""A user's map-style data set, as of `torch.utils.data`: an object with a length whose items are pairs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.config.user_code import format_error
from common.data.examples import Medium
from common.data.forms import check_names, quote
from common.errors import ConfigError
from common.signals.forms import PLAIN, list_names

# Batches that were read and are kept: inputs and targets of a batch are asked for one after the other.
_KEPT = 4


def is_map_style(value: object) -> bool:
    """Whether a value is a map-style data set, and no array, list or table."""
    if isinstance(value, Sequence | Mapping) or hasattr(value, "shape"):
        return False
    return hasattr(value, "__getitem__") and hasattr(value, "__len__")


def count_classes(dataset: Any) -> int | None:
    """Return the attribute `classes`, a number or the length of a list of names; None without it."""
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, int):
        return classes
    return len(classes) if isinstance(classes, Sequence | Mapping) else None


class MapStyleRows:
    """Rows of a map-style data set: one call of the user's code at a time, from whichever thread.

    Args:
        dataset: of pairs (input, target), each a number, an array or a tensor; inputs may be dicts of these.
        name: of the set, for a refusal.
    """

    medium = Medium.CODE

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset = dataset
        self._name = name
        self._lock = threading.Lock()
        self._kept: dict[bytes, tuple[dict[str, np.ndarray], np.ndarray]] = {}
        self._names: frozenset[str] | None = None  # of the inputs that were read first

    def __len__(self) -> int:
        return len(self._dataset)

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read raw inputs.

        Raises:
            ConfigError: the data set raises, or an item is no pair of arrays of the first one's shape (and
                names).
        """
        return {name: array.copy() for name, array in self._read(rows)[0].items()}

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read raw targets; errors as of `inputs`."""
        return self._read(rows)[1].copy()

    def _read(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        key = rows.tobytes()
        with self._lock:
            if key not in self._kept:
                while len(self._kept) >= _KEPT:
                    del self._kept[next(iter(self._kept))]
                inputs, targets = zip(*(self._item(int(row)) for row in rows), strict=True)
                self._kept[key] = self._stack_inputs(inputs, rows), self._stack(targets, rows)
            return self._kept[key]

    def _item(self, row: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        try:
            item = self._dataset[row]
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"{self._name}: example {row} raised {format_error(error, '')}; correct the data set"
            ) from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            raise ConfigError(
                f"{self._name}: example {row} is a {type(item).__name__}{size}; it must be a pair of "
                "input and target"
            )
        x, y = item
        if not isinstance(x, Mapping):
            return {PLAIN: self._array(x, row)}, self._array(y, row)
        check_names(x, f"{self._name}: the input of example {row}")
        return {name: self._array(each, row, name) for name, each in x.items()}, self._array(y, row)

    def _array(self, value: Any, row: int, name: str = PLAIN) -> np.ndarray:
        try:
            return np.asarray(value)
        except Exception as error:
            raise ConfigError(
                f"{self._name}: example {row}{quote(name)} cannot be read as numpy arrays: "
                f"{format_error(error, '')}; give numbers, arrays or tensors"
            ) from error

    def _stack_inputs(
        self, inputs: Sequence[dict[str, np.ndarray]], rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        self._names = self._names or frozenset(inputs[0])
        for x, row in zip(inputs, rows, strict=True):
            if x.keys() != self._names:
                raise ConfigError(
                    f"{self._name}: example {row} has {list_names(x)}, others {list_names(self._names)}; "
                    "give all the same tensors"
                )
        return {name: self._stack([x[name] for x in inputs], rows, name) for name in inputs[0]}

    def _stack(self, values: Sequence[np.ndarray], rows: np.ndarray, name: str = PLAIN) -> np.ndarray:
        for value, row in zip(values, rows, strict=True):
            if value.shape != values[0].shape:
                raise ConfigError(
                    f"{self._name}: example {rows[0]}{quote(name)} has the shape {values[0].shape}, "
                    f"example {row} {value.shape}; give all the same shape"
                )
        return np.stack(values)
