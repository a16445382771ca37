"""Muon (Jordan et al. 2024): momentum whose singular values are brought near one, a step for matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from common.optim.optimizers import Settings
from common.optim.steps import Tensors

MOMENTUM = 0.95
# Of the quintic Newton-Schulz iteration.
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
EPSILON = 1e-7
# Root mean square of adamw's usual step: one rate and one decay suit both (Liu et al. 2025, equation 4).
SCALE = 0.2


@torch.no_grad()
def step(
    settings: Settings,
    weights: Tensors,
    gradients: Tensors,
    moments: Sequence[Tensors],
    steps: Tensor,  # noqa: ARG001 - as in `Step`
    rate: float,
    divisor: Tensor | None = None,
) -> None:
    """Step as `torch.optim.Muon` with adjust_lr_fn="match_rms_adamw", but in float32.

    Arguments as of `Step`.
    """
    for w, g, momentum in zip(weights, gradients, moments[0], strict=True):
        g = g if divisor is None else g / divisor
        momentum.lerp_(g, 1 - MOMENTUM)
        change = orthogonalize(g.lerp(momentum, MOMENTUM))
        w.mul_(1 - rate * settings.weight_decay)
        w.add_(change, alpha=-rate * SCALE * math.sqrt(max(w.shape)))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix, (m, n), near one."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x: Tensor = wide / wide.norm().clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix else x.T
