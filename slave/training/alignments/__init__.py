"""Fixed ways of gradients down to a layer.

Module NAME has the function `build` of the row NAME of `common.config.alignments.ALIGNMENTS`.
"""

from __future__ import annotations

from common.registry import import_implementation
from slave.training.decoupling import Unlock
from slave.training.parts import Parts


def build(parts: Parts) -> Unlock:
    """Build the unlock of a layer below the top, with the configured way."""
    name = parts.config.decoupling.alignment
    unlock: Unlock = import_implementation(__name__, name).build(parts)
    return unlock
