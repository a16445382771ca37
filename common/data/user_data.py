"""A user's own data, as `path/to/file.py:function` returns them: checked, and read by row."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.config.user_code import format_error, keep_folder, load_user_function
from common.data import map_style, tables
from common.data.examples import Arrays, Examples
from common.data.forms import Form, check_names, describe, name_array, quote
from common.data.lazy import Lazy
from common.data.map_style import MapStyleRows
from common.data.mapped import MappedRows, is_mapped
from common.data.pointers import find_pointer
from common.errors import ConfigError
from common.signals.forms import PLAIN, list_names

NAMES = ("train_x", "train_y", "test_x", "test_y")
_PARTS = ("the training set", "the test set")
_FORMS = (
    f"the four arrays {', '.join(NAMES)} (an x may be a dict of arrays), or the training set and the test "
    "set as map-style data sets, tables of pyarrow or paths of Arrow or Parquet files"
)


def load(spec: str, code: Path | None, path: Path | None = None) -> tuple[Examples, Examples]:
    """Call the user's function and check the result.

    Args:
        spec: `path/to/file.py:function`; the function may take `path`, and returns four arrays, (train_x,
            train_y, test_x, test_y), of which train_x and test_x may be dicts of arrays, or two sets, each a
            map-style data set, a table of pyarrow, or the path or paths of Arrow or Parquet files.
        code: folder in which the file is looked up first, by its bare name.
        path: folder of the data, for a function with the parameter `path`; None: it is unset.

    Returns:
        Training and test examples: inputs uint8, float32, int64 or bool, where (N, H, W) of bytes or floats
        become (N, 1, H, W); targets int64 or float32. Mapped arrays stay mapped.

    Raises:
        ConfigError: the file or the function is missing, the function raises, or its result is malformed.
    """
    function = load_user_function(spec, code)
    try:
        takes_path = "path" in inspect.signature(function).parameters
        with keep_folder():
            returned = function(path=path) if takes_path else function()
    except (Exception, SystemExit) as error:
        file = getattr(getattr(function, "__code__", None), "co_filename", "")
        advice = find_pointer(error) or "correct the function"
        raise ConfigError(f"{spec}: raised {format_error(error, file)}; {advice}") from error
    if isinstance(returned, tuple | list) and len(returned) == len(NAMES):
        train, test = _load_arrays(spec, returned)
    elif isinstance(returned, tuple | list) and len(returned) == 2:
        train, test = _load_sets(spec, returned)
    else:
        raise ConfigError(f"{spec}: returned {_describe_value(returned)}; return {_FORMS}")
    return train, test


def _load_arrays(spec: str, returned: Sequence[Any]) -> tuple[Examples, Examples]:
    parts = [
        (_inputs(spec, NAMES[place], returned[place]), _array(spec, NAMES[place + 1], returned[place + 1]))
        for place in (0, 2)
    ]
    for place, (x, y) in zip((0, 2), parts, strict=True):
        _check_lengths(spec, place, x, y)
    train, test = (_examples(spec, place, *part) for place, part in zip((0, 2), parts, strict=True))
    described = [
        {
            **{key: f"{name_array(NAMES[place], key)} is {describe(each)}" for key, each in x.items()},
            None: f"{NAMES[place + 1]} is {describe(y)}",
        }
        for place, (x, y) in zip((0, 2), parts, strict=True)
    ]
    _check_alike(spec, train, test, described)
    return train, test


def _inputs(spec: str, name: str, value: Any) -> dict[str, np.ndarray]:
    """Return the inputs of a part as arrays by name."""
    if not isinstance(value, Mapping):
        return {PLAIN: _array(spec, name, value)}
    check_names(value, f"{spec}: {name}")
    return {key: _array(spec, name_array(name, key), each) for key, each in value.items()}


def _check_lengths(spec: str, place: int, x: Mapping[str, np.ndarray], y: np.ndarray) -> None:
    """Check that the arrays of a part, with names from `place` on, have one length."""
    counts = {name_array(NAMES[place], key): len(each) if each.ndim else 0 for key, each in x.items()}
    name, count = next(iter(counts.items()))
    for other, length in counts.items():
        if length != count:
            raise ConfigError(
                f"{spec}: {name} has {count} examples, {other} {length}; give all the same number"
            )
    if count and (y.dtype.kind not in "biuf" or y.shape[:1] != (count,)):
        raise ConfigError(
            f"{spec}: {NAMES[place + 1]} is {describe(y)}; it must be numbers of the shape ({count}, ...), "
            "the target of each example"
        )


def _array(spec: str, name: str, value: Any) -> np.ndarray:
    try:
        return np.asanyarray(value) if isinstance(value, np.ndarray) else np.asarray(value)
    except Exception as error:
        raise ConfigError(
            f"{spec}: {name} cannot be read as a numpy array: {format_error(error, '')}; return a numpy array"
        ) from error


def _examples(spec: str, place: int, x: Mapping[str, np.ndarray], y: np.ndarray) -> Examples:
    """Check the inputs and the targets of one part; mapped ones are checked as they are read."""
    forms = {key: _find_form(spec, NAMES[place], key, each) for key, each in x.items()}
    if any(map(is_mapped, (*x.values(), y))):
        return Lazy.of(MappedRows.of(x, y), f"{spec}: {_PARTS[place // 2]}")
    targets = Form.of_targets(y)
    assert targets is not None
    # Batches gather random rows, which is fast in contiguous memory alone.
    return Arrays(
        {
            key: np.ascontiguousarray(form.fit(x[key], f"{spec}: {name_array(NAMES[place], key)}"))
            for key, form in forms.items()
        },
        np.ascontiguousarray(targets.fit(y, f"{spec}: {NAMES[place + 1]}")),
    )


def _find_form(spec: str, name: str, key: str, x: np.ndarray) -> Form:
    form = Form.of_inputs(x, key)
    if form is not None:
        return form
    if key != PLAIN:
        need = "it must have an example at least, and uint8, floating point, whole numbers or booleans"
    elif x.ndim < 2 or not x.size:
        need = "it must be vectors (N, D), sequences (N, T, ...) or images (N, H, W) or (N, C, H, W)"
    else:
        need = "its numbers must be uint8, floating point or whole numbers"
    raise ConfigError(f"{spec}: {name_array(name, key)} is {describe(x)}; {need}")


def _load_sets(spec: str, returned: Sequence[Any]) -> tuple[Examples, Examples]:
    train, test = (
        _load_set(spec, value, part, returned) for value, part in zip(returned, _PARTS, strict=True)
    )
    described = [
        {
            key: f"an {_kind(key)} of {part} is {form.dtype} {form.shape}"
            for key, form in _forms(examples).items()
        }
        for examples, part in zip((train, test), _PARTS, strict=True)
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
        f"{spec}: returned {_describe_value(returned)}; {part} is {_describe_value(value)}; return {_FORMS}"
    )


def _kind(key: str | None) -> str:
    return "target" if key is None else f"input{quote(key)}"


def _check_alike(
    spec: str, train: Examples, test: Examples, described: Sequence[Mapping[str | None, str]]
) -> None:
    """Check the names and forms of both parts for equality; `described`: inputs and targets of both."""
    if train.input_forms.keys() != test.input_forms.keys():
        one, other = (list_names(part.input_forms) for part in (train, test))
        raise ConfigError(
            f"{spec}: an input of {_PARTS[0]} has {one}, an input of {_PARTS[1]} {other}; "
            "both must have the same"
        )
    for key, form in _forms(train).items():
        if form != _forms(test)[key]:
            raise ConfigError(
                f"{spec}: {described[0][key]} but {described[1][key]}; both must be of one shape and one type"
            )


def _forms(part: Examples) -> dict[str | None, Form]:
    """Return the forms of the inputs by name, and of the targets under None."""
    return dict(part.input_forms) | {None: Form(part.target_shape, part.target_dtype)}


def _describe_value(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return describe(value)
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"
