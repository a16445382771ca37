"""Forms of raw inputs and targets, and the names of inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from common.errors import ConfigError
from common.signals.forms import PLAIN, is_name


@dataclass(frozen=True)
class Form:
    """Final form of an input tensor or of targets.

    Attributes:
        shape: of an example.
        dtype: uint8, float32, int64 or bool.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Number of numbers of an example."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of an example."""
        return self.size * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        """Whether inputs become floats of mean 0 and deviation 1: bytes and floats do."""
        return self.dtype.kind in "uf"

    @staticmethod
    def of_inputs(raw: np.ndarray, name: str) -> Form | None:
        """Find the form of an input tensor; plain (N, H, W) of bytes or floats become images.

        None without a form. Named tensors may be masks, and numbers (N,), and keep their shape.
        """
        named = name != PLAIN
        if (
            raw.ndim < (1 if named else 2)
            or not raw.size
            or raw.dtype.kind not in ("biuf" if named else "iuf")
        ):
            return None
        if raw.dtype.kind == "b":
            return Form(raw.shape[1:], raw.dtype)
        if raw.dtype != np.uint8 and raw.dtype.kind != "f":
            return Form(raw.shape[1:], np.dtype(np.int64))
        dtype = raw.dtype if raw.dtype == np.uint8 else np.dtype(np.float32)
        image = raw.ndim == 3 and not named
        return Form((1, *raw.shape[1:]) if image else raw.shape[1:], dtype)

    @staticmethod
    def of_targets(raw: np.ndarray) -> Form | None:
        """Find the form of targets, int64 for whole numbers, else float32; None without numbers."""
        if raw.dtype.kind not in "biuf":
            return None
        return Form(raw.shape[1:], np.dtype(np.float32 if raw.dtype.kind == "f" else np.int64))

    def fit(self, raw: np.ndarray, where: str) -> np.ndarray:
        """Bring rows into form.

        Raises:
            ConfigError: rows of another shape, numbers in a mask, NaN, or numbers too large for float32.
        """
        if raw.shape[1:] != self.shape and (1, *raw.shape[1:]) != self.shape:
            raise ConfigError(
                f"{where} has the shapes {self.shape} and {raw.shape[1:]}; give all the same shape"
            )
        if self.dtype.kind == "b" and raw.dtype.kind != "b":
            raise ConfigError(f"{where} is bool and {raw.dtype}; give all the same type")
        with np.errstate(over="ignore"):
            values = raw.astype(self.dtype, copy=False).reshape(len(raw), *self.shape)
        if self.dtype.kind == "f" and not np.isfinite(values).all():
            raise ConfigError(f"{where} holds NaN, infinity or a number too large for float32; remove it")
        return values


def check_names(names: Iterable[object], where: str) -> None:
    """Check the names of input tensors.

    Raises:
        ConfigError: no name, or a value that cannot name a tensor.
    """
    names = list(names)
    if not names:
        raise ConfigError(f"{where} has no tensor; give one at least")
    for name in names:
        if not is_name(name):
            raise ConfigError(
                f"{where} has a tensor named {name!r:.80}; a name has letters, digits and _, no digit first, "
                "and at most 64 of them"
            )


def name_array(array: str, name: str) -> str:
    """Return the name of an array of inputs: x, or x["mask"] for a named tensor."""
    return array if name == PLAIN else f'{array}["{name}"]'


def quote(name: str) -> str:
    """Return the name of a tensor for a message: ' "mask"', or nothing for plain inputs."""
    return "" if name == PLAIN else f' "{name}"'


def describe(array: np.ndarray) -> str:
    """Describe an array: "float64 (4, 3)"."""
    return f"{array.dtype} {array.shape}"
