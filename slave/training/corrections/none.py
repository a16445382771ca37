"""`none`: the gradient as it comes."""

from __future__ import annotations

from slave.training.corrections import Correction


def build() -> Correction:
    """Build the correction."""
    return Correction()
