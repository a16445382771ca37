"""Conditional DNI (Jaderberg et al. 2016): regression from h and the label to the gradient."""

from __future__ import annotations

from common.config.synthesizers import DniOptions
from common.synthesizers.regression import DeltaRegression
from common.tasks import Task


def build(options: DniOptions, shape: tuple[int, ...], task: Task) -> DeltaRegression:
    """Build M for an h of `shape` (of one example)."""
    return DeltaRegression(options, shape, task, context=True)
