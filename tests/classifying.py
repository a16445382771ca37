"""The task of tests that need one: classification without options."""

from __future__ import annotations

from common import tasks
from common.config.task import TaskConfig
from common.data.targets import Targets
from common.tasks import Task


def classifying(classes: int) -> Task:
    """Build a classification of so many classes."""
    return tasks.build(TaskConfig(), Targets(classes))
