"""Batch normalization of rows of numbers."""

from __future__ import annotations

from torch import Tensor, nn


class RowNorm(nn.BatchNorm1d):
    """Batch normalization of (B, D), or of (B, T, D) over examples and positions."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each of the D numbers."""
        return super().forward(x.flatten(0, -2)).view_as(x)
