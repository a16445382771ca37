"""Targets of a data set: the number of classes, and their fit to a task."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from common.config.tasks import TargetRule
from common.data.examples import Examples, Medium
from common.data.lazy import Lazy
from common.errors import ConfigError

# Examples that are read for the number of classes where reading runs code of the user.
MOST_READ = 10_000
_BLOCK = 1 << 16
_BLOCK_OF_CODE = 64


def count_classes(name: str, train: Examples, test: Examples) -> int:
    """Return the number of classes: the largest whole number + 1; for float targets the size of a target.

    A map-style data set may have the number, or the names, in its attribute `classes`.

    Args:
        name: value of `data.dataset`.
        train: training examples.
        test: test examples.

    Raises:
        ConfigError: reading all targets would run code of the user too often.
    """
    if train.target_dtype.kind == "f":
        return math.prod(train.target_shape)
    if isinstance(train, Lazy) and train.classes is not None:
        return train.classes
    if _runs_code(train, test) and len(train) + len(test) > MOST_READ:
        raise ConfigError(
            f"data.dataset: {name}: has no number of classes, and reading all {len(train) + len(test)} "
            "examples takes long; give the training set an attribute `classes`, the number of classes"
        )
    return 1 + max(int(block.max()) for block in _blocks(train, test))


def check_form(rule: TargetRule, name: str, train: Examples, test: Examples) -> None:
    """Check dtype and number of dimensions of the targets.

    Args:
        rule: of the task.
        name: value of `data.dataset`.
        train: training examples.
        test: test examples.

    Raises:
        ConfigError: targets of another form than the task's.
    """
    for part, examples in (("train_y", train), ("test_y", test)):
        integers, shape = examples.target_dtype.kind == "i", (len(examples), *examples.target_shape)
        if rule.integers not in (None, integers) or len(shape) not in rule.dimensions:
            raise ConfigError(
                f"data.dataset: {name}: {part} is {examples.target_dtype} {shape}; it must be "
                f"{rule.needs.format(count=len(examples))}, or choose another task.kind"
            )


def check_range(rule: TargetRule, name: str, train: Examples, test: Examples) -> None:
    """Check the range of the targets; where reading runs code of the user, of the first ones alone.

    Args:
        rule: of the task.
        name: value of `data.dataset`.
        train: training examples.
        test: test examples.

    Raises:
        ConfigError: a target out of the task's range, or none that counts.
    """
    for part, examples in (("train_y", train), ("test_y", test)):
        counts = False
        for block in _blocks(examples):
            counts |= rule.ignored is None or bool((block != rule.ignored).any())
            wrong = block[_out_of_range(rule, block)]
            if wrong.size:
                label = "the label " if rule.counted else ""
                raise ConfigError(f"data.dataset: {name}: {part} holds {label}{wrong[0]}; {rule.describe()}")
            if _runs_code(examples):
                break
        if not counts and not _runs_code(examples):
            raise ConfigError(
                f"data.dataset: {name}: {part} holds {rule.ignored} alone, which is left out; give targets "
                "that count"
            )


def _out_of_range(rule: TargetRule, y: np.ndarray) -> np.ndarray:
    wrong = np.zeros(y.shape, bool)
    if rule.lowest is not None:
        wrong |= y < rule.lowest
    if rule.highest is not None:
        wrong |= y > rule.highest
    return wrong if rule.ignored is None else wrong & (y != rule.ignored)


def check_classes(name: str, train: Examples, test: Examples, classes: int, *, gaps: bool) -> None:
    """Check that there are no more classes than examples, and an example of each class.

    Where reading runs code of the user, labels are checked as they are read.

    Args:
        name: value of `data.dataset`.
        train: training examples.
        test: test examples.
        classes: number of classes.
        gaps: whether some classes may lack examples.

    Raises:
        ConfigError: more classes than examples, or a class without an example.
    """
    where = f"data.dataset: {name}"
    if _runs_code(train, test):
        return
    if classes > len(train) + len(test):  # before a network of so many outputs takes memory
        raise ConfigError(
            f"{where}: the labels go up to {classes - 1}, but there are {len(train) + len(test)} examples; "
            "number the classes from 0 without gaps"
        )
    if not gaps:
        _check_gaps(where, train, test, classes)


def _check_gaps(where: str, train: Examples, test: Examples, classes: int) -> None:
    seen = np.zeros(classes, np.int64)
    for block in _blocks(train, test):
        seen += np.bincount(block, minlength=classes)
    if not seen.all():
        raise ConfigError(
            f"{where}: no example has the label {int(seen.argmin())}, but labels go up to {classes - 1}; "
            "remove examples to be ignored and number the classes from 0 without gaps, or give your own "
            f"network.model with {classes} outputs"
        )


def _runs_code(*parts: Examples) -> bool:
    return any(part.medium is Medium.CODE for part in parts)


def _blocks(*parts: Examples) -> Iterator[np.ndarray]:
    """Yield targets in blocks: mapped ones never come into memory as a whole."""
    for part in parts:
        block = max(1, _BLOCK // max(1, math.prod(part.target_shape)))
        if part.medium is Medium.CODE:  # inputs are read too
            block = _BLOCK_OF_CODE
        for start in range(0, len(part), block):
            yield part.targets(np.arange(start, min(start + block, len(part))))
