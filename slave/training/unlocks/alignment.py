"""`alignment`: gradients by fixed ways down (feedback alignment, direct feedback alignment, kickback)."""

from __future__ import annotations

from slave.training import alignments
from slave.training.decoupling import Unlock
from slave.training.parts import Parts


def build(parts: Parts) -> Unlock:
    """Build the unlock of a layer below the top."""
    return alignments.build(parts)
