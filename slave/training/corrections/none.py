"""`none`: the gradient as it comes."""

from __future__ import annotations

from common.config.sections import Config
from slave.training.corrections import Correction


def build(config: Config) -> Correction:  # noqa: ARG001 - every correction is built so
    """Build the correction."""
    return Correction()
