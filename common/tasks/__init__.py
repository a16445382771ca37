"""Tasks: loss, target, metrics and the shape of the output, in one object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.config.task import TaskConfig
from common.config.user_code import load_user_function
from common.config.values import is_user_function
from common.data.targets import Targets
from common.registry import import_implementation
from common.tasks.base import Expansion, Task
from common.tasks.user import UserTask

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Expansion", "Task", "build"]


def build(config: TaskConfig, targets: Targets, code: Path | None = None) -> Task:
    """Build the task of a run.

    Args:
        config: section [task].
        targets: facts about the data set's targets.
        code: folder in which a user's file is searched first, by its bare name.

    Raises:
        ConfigError: the options do not fit the targets, or a user's function is missing.
    """
    if is_user_function(config.kind):
        return UserTask(config, load_user_function(config.kind, code), targets)
    module = import_implementation(f"{__name__}.kinds", config.kind)
    task: Task = module.build(config.task_options(), targets)
    return task
