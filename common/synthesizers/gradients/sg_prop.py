"""SG+prop (Czarnecki et al. 2017): regression from h and the label, whose loss teaches the layer, too."""

from __future__ import annotations

from common.config.synthesizers import PropOptions
from common.synthesizers.regression import PropagatingRegression
from common.tasks import Task


def build(options: PropOptions, shape: tuple[int, ...], task: Task) -> PropagatingRegression:
    """Build M for an h of `shape` (of one example)."""
    return PropagatingRegression(options, shape, task)
