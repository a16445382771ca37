"""Tasks: loss, target, metrics and the shape of the output, in one object."""

from __future__ import annotations

from common.config.task import TaskConfig
from common.data.targets import Targets
from common.registry import import_implementation
from common.tasks.base import Expansion, Task

__all__ = ["Expansion", "Task", "build"]


def build(config: TaskConfig, targets: Targets) -> Task:
    """Build the task of a run.

    Args:
        config: section [task].
        targets: facts about the data set's targets.

    Raises:
        ConfigError: the options do not fit the targets.
    """
    task: Task = import_implementation("common.tasks.kinds", config.kind).build(
        config.task_options(), targets
    )
    return task
