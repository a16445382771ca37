"""SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's preconditioner, a step for matrices.

Numerical steps as in algorithm 3 of the paper: the basis is found at the first step, which moves no weight,
and followed by a step of power iteration and QR every `FREQUENCY` steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.optim.optimizers import Settings
from common.optim.steps import Tensors

BETAS = (0.95, 0.95)
EPSILON = 1e-8
FREQUENCY = 10


@torch.no_grad()
def step(
    settings: Settings,
    weights: Tensors,
    gradients: Tensors,
    moments: Sequence[Tensors],
    steps: Tensor,
    rate: float,
    divisor: Tensor | None = None,
) -> None:
    """Step as the authors' class with betas of 0.95 and a frequency of 10.

    After the two moments, `moments` has a covariance and a basis for the rows, then for the columns; without
    entries for a side that is too long, whose basis stays as it is.

    Arguments as of `Step`.
    """
    t = int(steps)
    if divisor is not None:
        torch._foreach_div_(gradients, divisor)
    for weight, gradient, first, second, *sides in zip(weights, gradients, *moments, strict=True):
        rows, columns = _Side(*sides[:2]), _Side(*sides[2:])
        if t > 1:
            change = _change(gradient, first, second, rows, columns, t)
            weight.add_(change, alpha=-rate)
            weight.mul_(1 - rate * settings.weight_decay)
        _follow(rows, gradient @ gradient.T, second, 0, t)
        _follow(columns, gradient.T @ gradient, second, 1, t)


class _Side(NamedTuple):
    """Covariance of the rows or columns of gradients, and its eigenvectors; both empty: the identity."""

    covariance: Tensor
    basis: Tensor


def _change(gradient: Tensor, first: Tensor, second: Tensor, rows: _Side, columns: _Side, t: int) -> Tensor:
    """Return Adam's change of a matrix, (m, n), computed in the basis; updates the moments."""
    first.lerp_(gradient, 1 - BETAS[0])
    rotated = _rotate(gradient, rows, columns)
    second.mul_(BETAS[1]).addcmul_(rotated, rotated, value=1 - BETAS[1])
    scale = math.sqrt(1 - math.pow(BETAS[1], t)) / (1 - math.pow(BETAS[0], t))
    step = _rotate(first, rows, columns).div_(second.sqrt().add_(EPSILON)).mul_(scale)
    left = rows.basis @ step if rows.basis.numel() else step
    return left @ columns.basis.T if columns.basis.numel() else left


def _rotate(matrix: Tensor, rows: _Side, columns: _Side) -> Tensor:
    left = rows.basis.T @ matrix if rows.basis.numel() else matrix
    return left @ columns.basis if columns.basis.numel() else left.clone()


def _follow(side: _Side, outer: Tensor, second: Tensor, dimension: int, t: int) -> None:
    """Add a gradient to a side's covariance, and bring the basis up to date."""
    if not side.basis.numel():
        return
    side.covariance.lerp_(outer, 1 - BETAS[1])
    if t == 1:
        side.basis.copy_(torch.linalg.eigh(side.covariance).eigenvectors.flip(1))
    elif t % FREQUENCY == 0:
        order = (side.basis * (side.covariance @ side.basis)).sum(0).argsort(descending=True)
        second.copy_(second.index_select(dimension, order))
        side.basis.copy_(torch.linalg.qr(side.covariance @ side.basis[:, order]).Q)
