"""Section [task]: loss, targets and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.config import settings
from common.config.settings import choice, key
from common.config.tasks import TASKS, USERS, TaskOptions, TaskRow
from common.config.values import is_user_function


@dataclass(frozen=True)
class TaskConfig:
    """Task of the run: loss, targets and metrics."""

    kind: str = choice(
        "classification", TASKS, "unset: language for text, tokens, copy and repeat-copy", user_function=True
    )
    options: dict[str, Any] = key({}, "the task's own options, or keyword arguments of the user's function")

    def __post_init__(self) -> None:
        if not is_user_function(self.kind):
            self.task_options()

    @property
    def row(self) -> TaskRow:
        """Row of the task, or of all users' own."""
        return USERS if is_user_function(self.kind) else TASKS[self.kind]

    def task_options(self) -> TaskOptions:
        """Return the checked options of a built-in task."""
        return settings.read(self.row.options, self.options, "task.options.")
