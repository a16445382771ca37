"""A user's own data, as `path/to/file.py:function` returns them: checked, and read by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.config.user_code import format_error, keep_folder, load_user_function
from common.data import map_style, tables
from common.data.examples import Arrays, Examples
from common.data.lazy import Form, Lazy
from common.data.map_style import MapStyleRows
from common.data.mapped import MappedRows, is_mapped
from common.data.pointers import find_pointer
from common.errors import ConfigError

NAMES = ("train_x", "train_y", "test_x", "test_y")
_PARTS = ("the training set", "the test set")
_FORMS = (
    f"the four arrays {', '.join(NAMES)}, or the training set and the test set as map-style data sets, "
    "tables of pyarrow or paths of Arrow or Parquet files"
)


def load(spec: str, code: Path | None) -> tuple[Examples, Examples]:
    """Call the user's function and check the result.

    Args:
        spec: `path/to/file.py:function`; the function takes no arguments and returns four arrays, (train_x,
            train_y, test_x, test_y), or two sets, each a map-style data set, a table of pyarrow, or the path
            or paths of Arrow or Parquet files.
        code: folder in which the file is looked up first, by its bare name.

    Returns:
        Training and test examples: inputs uint8, float32 or int64, where (N, H, W) of bytes or floats become
        (N, 1, H, W); targets int64 or float32. Mapped arrays stay mapped.

    Raises:
        ConfigError: the file or the function is missing, the function raises, or its result is malformed.
    """
    function = load_user_function(spec, code)
    try:
        with keep_folder():
            returned = function()
    except (Exception, SystemExit) as error:
        file = getattr(getattr(function, "__code__", None), "co_filename", "")
        advice = find_pointer(error) or "correct the function"
        raise ConfigError(f"{spec}: raised {format_error(error, file)}; {advice}") from error
    if isinstance(returned, tuple | list) and len(returned) == len(NAMES):
        train, test = _load_arrays(spec, returned)
    elif isinstance(returned, tuple | list) and len(returned) == 2:
        train, test = _load_sets(spec, returned)
    else:
        raise ConfigError(f"{spec}: returned {_describe(returned)}; return {_FORMS}")
    return train, test


def _load_arrays(spec: str, returned: Sequence[Any]) -> tuple[Examples, Examples]:
    arrays = [_array(spec, *named) for named in zip(NAMES, returned, strict=True)]
    for index in (1, 3):
        count, y = len(arrays[index - 1]) if arrays[index - 1].ndim else 0, arrays[index]
        if count and (y.dtype.kind not in "biuf" or y.shape[:1] != (count,)):
            raise ConfigError(
                f"{spec}: {NAMES[index]} is {_describe(y)}; it must be numbers of the shape ({count}, ...), "
                "the target of each example"
            )
    train, test = _examples(spec, 0, *arrays[:2]), _examples(spec, 2, *arrays[2:])
    _check_alike(
        spec, train, test, [f"{name} is {_describe(each)}" for name, each in zip(NAMES, arrays, strict=True)]
    )
    return train, test


def _array(spec: str, name: str, value: Any) -> np.ndarray:
    try:
        return np.asanyarray(value) if isinstance(value, np.ndarray) else np.asarray(value)
    except Exception as error:
        raise ConfigError(
            f"{spec}: {name} cannot be read as a numpy array: {format_error(error, '')}; return a numpy array"
        ) from error


def _examples(spec: str, place: int, x: np.ndarray, y: np.ndarray) -> Examples:
    """Check the inputs and the targets of one part; mapped ones are checked as they are read."""
    form = Form.of_inputs(x)
    if form is None:
        raise ConfigError(
            f"{spec}: {NAMES[place]} is {_describe(x)}; "
            + (
                "it must be vectors (N, D), sequences (N, T, ...) or images (N, H, W) or (N, C, H, W)"
                if x.ndim < 2 or not x.size
                else "its numbers must be uint8, floating point or whole numbers"
            )
        )
    if is_mapped(x) or is_mapped(y):
        return Lazy.of(MappedRows.of(x, y), f"{spec}: {_PARTS[place // 2]}")
    targets = Form.of_targets(y)
    assert targets is not None
    # Batches gather random rows, which is fast in contiguous memory alone.
    return Arrays(
        np.ascontiguousarray(form.fit(x, f"{spec}: {NAMES[place]}")),
        np.ascontiguousarray(targets.fit(y, f"{spec}: {NAMES[place + 1]}")),
    )


def _load_sets(spec: str, returned: Sequence[Any]) -> tuple[Examples, Examples]:
    train, test = (
        _load_set(spec, value, part, returned) for value, part in zip(returned, _PARTS, strict=True)
    )
    described = [
        f"an {kind} of {part} is {dtype} {shape}"
        for examples, part in zip((train, test), _PARTS, strict=True)
        for kind, dtype, shape in (
            ("input", examples.input_dtype, examples.input_shape),
            ("target", examples.target_dtype, examples.target_shape),
        )
    ]
    _check_alike(spec, train, test, described)
    return train, test


def _load_set(spec: str, value: Any, part: str, returned: Sequence[Any]) -> Examples:
    name = f"{spec}: {part}"
    rows = tables.open_rows(value, name)
    if rows is not None:
        return Lazy.of(rows, name)
    if map_style.is_map_style(value):
        classes = map_style.count_classes(value)
        return replace(Lazy.of(MapStyleRows(value, name), name), classes=classes)
    raise ConfigError(
        f"{spec}: returned {_describe(returned)}; {part} is {_describe(value)}; return {_FORMS}"
    )


def _check_alike(spec: str, train: Examples, test: Examples, described: Sequence[str]) -> None:
    """Check the form of both parts for equality; `described`: inputs and targets of both."""
    forms = [
        ((part.input_shape, part.input_dtype), (part.target_shape, part.target_dtype))
        for part in (train, test)
    ]
    for place in range(2):
        if forms[0][place] != forms[1][place]:
            raise ConfigError(
                f"{spec}: {described[place]} but {described[place + 2]}; "
                "both must be of one shape and one type"
            )


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"
