"""Section [task]: loss, targets and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.config import settings
from common.config.settings import choice, key
from common.config.tasks import TASKS, TaskOptions, TaskRow


@dataclass(frozen=True)
class TaskConfig:
    """Task of the run: loss, targets and metrics."""

    kind: str = choice("classification", TASKS)
    options: dict[str, Any] = key({}, "the task's own options")

    def __post_init__(self) -> None:
        self.task_options()

    @property
    def row(self) -> TaskRow:
        """Row of the task."""
        return TASKS[self.kind]

    def task_options(self) -> TaskOptions:
        """Return the checked options."""
        return settings.read(self.row.options, self.options, "task.options.")
