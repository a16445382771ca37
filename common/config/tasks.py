"""Registry of the tasks: loss, targets and metrics of a run.

The tasks are built in `common.tasks.kinds`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.config.settings import key
from common.registry import Registry, Row


@dataclass(frozen=True)
class ClassificationOptions:
    """Options of the cross-entropy over classes."""

    label_smoothing: float = key(
        0.0, "share of each target that is spread evenly over the classes", minimum=0, maximum=0.99
    )
    class_weights: list[float] | None = key(
        None, "factors of the classes' losses, one a class; unset: 1", minimum=0
    )


TaskOptions = ClassificationOptions


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


@dataclass(frozen=True, kw_only=True)
class TaskRow(Row):
    """A task.

    Attributes:
        options: dataclass of `task.options`.
        targets: form of the targets.
        metrics: names of the metrics, the one for screens first. A metric `error_percent` is also the test
            error of the summary.
    """

    options: type[ClassificationOptions]
    targets: TargetRule
    metrics: tuple[str, ...] = ()


TASKS = Registry(
    TaskRow(
        name="classification",
        help="cross-entropy over classes",
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
)
