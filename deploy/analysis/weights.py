"""Weights by unit: squared norms, and the change between two kept networks."""

from __future__ import annotations

from torch import Tensor, nn

from deploy.analysis.subjects import Subject


def squared_norms(subject: Subject) -> list[float]:
    """Return the sum of every unit's squared weights: learned tensors of two dimensions and more."""
    return [sum(float(w.square().sum()) for w in _weights(unit)) for unit in subject.units]


def updates(earlier: Subject, later: Subject) -> list[float | None]:
    """Return for every unit the norm of the weights' change over the norm of the weights, a batch.

    The change between two networks is divided by the batches between them: the ratio of one step for
    networks of two batches in a row, and less than the mean of the steps' otherwise. None: no weights.
    """
    steps = later.point.batch - earlier.point.batch
    ratios: list[float | None] = []
    for before, after in zip(earlier.units, later.units, strict=True):
        pairs = list(zip(_weights(before), _weights(after), strict=True))
        norm = sum(float(w.square().sum()) for w, _ in pairs) ** 0.5
        change = sum(float((v - w).square().sum()) for w, v in pairs) ** 0.5
        ratios.append(change / norm / steps if norm and steps else None)
    return ratios


def _weights(unit: nn.Module) -> list[Tensor]:
    return [each.detach() for each in unit.parameters() if each.requires_grad and each.ndim > 1]
