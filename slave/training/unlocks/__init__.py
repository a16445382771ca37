"""Unlocks: rules for a layer's use of an input and a gradient, and for the messages sent.

Module NAME has the function `build` of the unlock NAME of `common.config.unlocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.registry import import_implementation
from slave.training.broadcast import BroadcastingTop
from slave.training.decoupling import Unlock
from slave.training.fixed import Fixed
from slave.training.parts import Parts
from slave.training.top import Top


def build(parts: Parts) -> Unlock:
    """Build the configured unlock of a layer where every message arrives; layer K is always `Top`.

    A layer without a use for a gradient, since nothing learns here or below, is always `Fixed`.
    """
    if parts.top:
        kind = BroadcastingTop if parts.config.decoupling.broadcasts else Top
        return kind(parts.layer, parts.health, parts.task, parts.scores)
    if not parts.wants_gradient:
        return Fixed(parts.layer)
    unlock: Unlock = find_builder(parts)(parts)
    return unlock


def find_builder(parts: Parts) -> Callable[[Parts], Any]:
    """Return the builder of the configured unlock."""
    builder: Callable[[Parts], Any] = import_implementation(__name__, parts.config.decoupling.unlock).build
    return builder
