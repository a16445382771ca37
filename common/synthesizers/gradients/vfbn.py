"""VFBN (Miyato et al. 2017): gradient of a small virtual forward network."""

from __future__ import annotations

from common.config.synthesizers import VfbnOptions
from common.synthesizers.virtual import VirtualForward
from common.tasks import Task


def build(options: VfbnOptions, shape: tuple[int, ...], task: Task) -> VirtualForward:
    """Build M for an h of `shape` (of one example)."""
    return VirtualForward(options, shape, task)
