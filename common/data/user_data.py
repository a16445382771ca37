"""A user's own data: the arrays that `path/to/file.py:function` returns, checked and normalized in form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.config.user_code import format_error, keep_folder, load_user_function
from common.errors import ConfigError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
NAMES = ("train_x", "train_y", "test_x", "test_y")


def load(spec: str, code: Path | None) -> Arrays:
    """Call the user's function and check the result.

    Args:
        spec: `path/to/file.py:function`; the function takes no arguments and returns
            (train_x, train_y, test_x, test_y), as numpy arrays or values that `numpy.asarray` accepts.
        code: folder in which the file is looked up first, by its bare name.

    Returns:
        train_x and test_x, (N, D) or (N, C, H, W), both uint8 or both float32; train_y and test_y, (N,)
        int64.

    Raises:
        ConfigError: the file or the function is missing, the function raises, or its result is malformed.
    """
    function = load_user_function(spec, code)
    try:
        with keep_folder():
            returned = function()
    except (Exception, SystemExit) as error:
        file = getattr(getattr(function, "__code__", None), "co_filename", "")
        raise ConfigError(f"{spec}: raised {format_error(error, file)}; correct the function") from error
    if not isinstance(returned, tuple | list) or len(returned) != len(NAMES):
        raise ConfigError(
            f"{spec}: returned {_describe(returned)}; return the four arrays {', '.join(NAMES)}"
        )
    arrays = [_array(spec, name, value) for name, value in zip(NAMES, returned, strict=True)]
    train_x, test_x = _inputs(spec, "train_x", arrays[0]), _inputs(spec, "test_x", arrays[2])
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise ConfigError(
            f"{spec}: train_x is {_describe(arrays[0])} but test_x is {_describe(arrays[2])}; "
            "both must be examples of one shape and one type"
        )
    train_y, test_y = (
        _labels(spec, name, y, len(x))
        for name, y, x in (("train_y", arrays[1], train_x), ("test_y", arrays[3], test_x))
    )
    return train_x, train_y, test_x, test_y


def _array(spec: str, name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except Exception as error:
        raise ConfigError(
            f"{spec}: {name} cannot be read as a numpy array: {format_error(error, '')}; return a numpy array"
        ) from error


def _inputs(spec: str, name: str, x: np.ndarray) -> np.ndarray:
    """Check examples (N, D) or (N, C, H, W); (N, H, W) becomes (N, 1, H, W)."""
    if x.ndim not in (2, 3, 4) or x.size == 0:
        raise ConfigError(
            f"{spec}: {name} is {_describe(x)}; it must be vectors (N, D) or images (N, H, W) or (N, C, H, W)"
        )
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ConfigError(f"{spec}: {name} is {_describe(x)}; its numbers must be uint8 or floating point")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise ConfigError(
                f"{spec}: {name} holds NaN, infinity or a number too large for float32; remove it"
            )
    # Batches gather random rows, which is fast in contiguous memory alone.
    return np.ascontiguousarray(x[:, None] if x.ndim == 3 else x)


def _labels(spec: str, name: str, y: np.ndarray, examples: int) -> np.ndarray:
    if y.dtype.kind not in "iu" or y.shape != (examples,):
        raise ConfigError(
            f"{spec}: {name} is {_describe(y)}; it must be whole numbers of the shape ({examples},), "
            "the class of each example"
        )
    y = y.astype(np.int64)
    if y.min() < 0:
        raise ConfigError(f"{spec}: {name} holds the label {y.min()}; the classes are numbered from 0")
    return y


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"
