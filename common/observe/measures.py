"""Names and values of a task's metrics as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from common.config.tasks import CURRICULUM_METRICS, unit_of

_PERCENT = "_percent"
# Metrics of the run rather than of a test set, whose larger values are better.
_RISING = CURRICULUM_METRICS


def of(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the task's metrics, the loss, and the metrics of units, of a summary or a line of metrics.jsonl.

    None stands for a number that is not finite.
    """
    metrics: Mapping[str, float | None] = record["metrics"]
    own = {name: value for name, value in metrics.items() if unit_of(name)}
    of_task = {name: value for name, value in metrics.items() if name not in own}
    return {**of_task, "test_loss": record["test_loss"], **own}


def is_rising(name: str) -> bool:
    """Whether a larger value of a metric is the better one."""
    return name in _RISING


def cost(name: str, value: float) -> float:
    """Return a number that is lower for a better value of a metric."""
    return -value if is_rising(name) else value


def title(name: str) -> str:
    """Return a metric's title: "test error" for error_percent, "test unit 3 loss" for unit_3_loss."""
    if name in _RISING:
        return name.replace("_", " ")
    return f"test {name.removesuffix(_PERCENT).removeprefix('test_').replace('_', ' ')}"


def axis(name: str) -> str:
    """Return the title with the unit, for the axis of a plot or the head of a table."""
    return title(name) + (", %" if name.endswith(_PERCENT) else "")


def form(name: str) -> str:
    """Return the format specification of a metric's numbers."""
    if name in _RISING:
        return ".4g"
    return ".2f" if name.endswith(_PERCENT) else ".4f"


def format_value(name: str, value: float | None) -> str:
    """Format the value of a metric; None stands for a number that is not finite."""
    if value is None or not math.isfinite(value):
        return "diverged"
    return f"{value:{form(name)}}" + (" %" if name.endswith(_PERCENT) else "")
