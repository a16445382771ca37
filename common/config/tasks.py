"""Registry of the tasks: loss, targets and metrics of a run.

The tasks are built in `common.tasks.kinds`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from common.config.settings import check_heeded, choice, key
from common.registry import Registry, Row

# Target of a position that counts nowhere; torch's own.
IGNORED = -100
# Metrics of a run whose examples become harder: the longest solved episode, and the level of the evaluation.
CURRICULUM_METRICS = ("longest_solved", "level")
# Most metrics of units that are shown.
MOST_UNIT_METRICS = 256
_UNIT_METRIC = re.compile(r"unit_([1-9]\d{0,5})_\w{1,64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class LossRow(Row):
    """A loss of a regression.

    Attributes:
        bounded: whether the loss is linear beyond `bound`.
    """

    bounded: bool = False


@dataclass(frozen=True)
class ClassificationOptions:
    """Options of the cross-entropy over classes."""

    label_smoothing: float = key(
        0.0, "share of each target that is spread evenly over the classes", minimum=0, maximum=0.99
    )
    class_weights: list[float] | None = key(
        None, "factors of the classes' losses, one a class; unset: 1", minimum=0
    )


LOSSES = Registry(
    LossRow(name="mse", help="squared residual"),
    LossRow(name="huber", help="squared up to a bound, linear beyond", heeds=("bound",), bounded=True),
)


@dataclass(frozen=True)
class RegressionOptions:
    """Options of a regression."""

    loss: str = choice("mse", LOSSES)
    bound: float = key(1.0, "of huber: residual from which the loss is linear", above=0)

    def __post_init__(self) -> None:
        check_heeded(self, "task.options.")


@dataclass(frozen=True)
class NoOptions:
    """Options of a task that has none."""


TaskOptions = ClassificationOptions | RegressionOptions | NoOptions


@dataclass(frozen=True, kw_only=True)
class TargetRule:
    """Form of the targets in a data set.

    Attributes:
        needs: description of a right array; `{count}` stands for the number of examples.
        integers: whether targets must be whole numbers; None: any numbers.
        dimensions: allowed numbers of dimensions of the array, examples included.
        lowest: smallest number allowed.
        highest: largest number allowed; None: no bound.
        ignored: number outside of the bounds that marks a position without a target.
        counted: whether the numbers are classes from 0, which leave no gap in a user's own data.
    """

    needs: str
    integers: bool | None
    dimensions: tuple[int, ...]
    lowest: float | None = None
    highest: float | None = None
    ignored: int | None = None
    counted: bool = False

    def describe(self) -> str:
        """Describe the range of the numbers."""
        if self.counted:
            return "the classes are numbered from 0"
        return f"targets go from {self.lowest:g} {'up' if self.highest is None else f'to {self.highest:g}'}"


def name_unit_metric(unit: int, name: str) -> str:
    """Name a metric of a unit's own, or the loss of its own: "unit_3_loss"; units count from 1."""
    return f"unit_{unit}_{name}"


def unit_of(metric: str) -> int:
    """Return the number of the unit whose own a metric is; 0: the metric is of the task."""
    found = _UNIT_METRIC.fullmatch(metric)
    return int(found[1]) if found else 0


def sort_unit_metrics(names: Iterable[str]) -> list[str]:
    """Return the names that are metrics of units, in the order of units; at most `MOST_UNIT_METRICS`."""
    found = sorted(filter(unit_of, names), key=lambda name: (unit_of(name), name))
    return found[:MOST_UNIT_METRICS]


@dataclass(frozen=True, kw_only=True)
class TaskRow(Row):
    """A task.

    Attributes:
        options: dataclass of `task.options`.
        targets: form of the targets.
        metrics: names of the metrics, the one for screens first. A metric `error_percent` is also the test
            error of the summary.
        balanced: whether the gradient of an example's loss adds up to 0 over the outputs, as of a softmax.
        late: whether late, corrected gradients are better than M's, and the default.
    """

    options: type[ClassificationOptions] | type[RegressionOptions] | type[NoOptions]
    targets: TargetRule
    metrics: tuple[str, ...] = ()
    balanced: bool = False
    late: bool = False


TASKS = Registry(
    TaskRow(
        name="classification",
        help="cross-entropy over classes",
        balanced=True,
        options=ClassificationOptions,
        targets=TargetRule(
            needs="whole numbers of the shape ({count},), the class of each example",
            integers=True,
            dimensions=(1,),
            lowest=0,
            counted=True,
        ),
        metrics=("error_percent",),
    ),
    TaskRow(
        name="multi-label",
        help="binary cross-entropy over labels",
        options=NoOptions,
        targets=TargetRule(
            needs="numbers from 0 to 1 of the shape ({count}, C), one a label",
            integers=None,
            dimensions=(2,),
            lowest=0,
            highest=1,
        ),
        metrics=("label_error_percent", "f1"),
    ),
    TaskRow(
        name="regression",
        help="squared or Huber loss",
        options=RegressionOptions,
        targets=TargetRule(
            needs="floating-point numbers of the shape ({count},) or ({count}, D)",
            integers=False,
            dimensions=(1, 2),
        ),
        metrics=("mse", "mae"),
    ),
    TaskRow(
        name="language",
        help="cross-entropy of the next token",
        balanced=True,
        options=NoOptions,
        targets=TargetRule(
            needs=f"whole numbers of the shape ({{count}}, T), the next token at each position, or {IGNORED}",
            integers=True,
            dimensions=(2,),
            lowest=0,
            ignored=IGNORED,
        ),
        metrics=("perplexity", "bits_per_token", "bits_per_character"),
        # docs/decisions/late-gradients.md has the measurements.
        late=True,
    ),
)

# Stands for all functions of users, whose targets are numbers of any shape.
USERS = TaskRow(
    name="user",
    help="a user's own loss",
    options=NoOptions,
    targets=TargetRule(
        needs="numbers of the shape ({count}, ...)", integers=None, dimensions=tuple(range(1, 9))
    ),
)
