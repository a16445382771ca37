"""Numbers on the command line."""

from __future__ import annotations

import math
from typing import Any

import click


class NonNegative(click.FloatRange):
    """Number of at least 0; `inf` is allowed, and NaN, which no comparison refuses, is not."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is no number", param, ctx)
        return number
