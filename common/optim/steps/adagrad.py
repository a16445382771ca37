"""Adagrad (Duchi et al. 2011), the optimizer of Downpour SGD (Dean et al. 2012)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.optim.optimizers import Settings
from common.optim.steps import Tensors

EPSILON = 1e-10


def step(
    settings: Settings,
    weights: Tensors,
    gradients: Tensors,
    moments: Sequence[Tensors],
    steps: Tensor,
    rate: float,
    divisor: Tensor | None = None,
) -> None:
    """Step with eta_i = gamma / sqrt(sum of dw_i^2), as `torch.optim.Adagrad` with fused=True.

    Arguments as of `Step`.
    """
    if weights[0].device.type == "cpu":
        torch._fused_adagrad_(
            weights, gradients, moments[0], [steps] * len(weights), lr=rate, lr_decay=0.0,
            weight_decay=settings.weight_decay, eps=EPSILON, maximize=False, grad_scale=divisor,
        )  # fmt: skip
        return
    # Torch has the fused operation for CPUs alone.
    decay = settings.weight_decay
    for w, g, squares in zip(weights, gradients, moments[0], strict=True):
        g = g if divisor is None else g / divisor
        g = g.add(w, alpha=decay) if decay else g
        squares.addcmul_(g, g)
        w.addcdiv_(g, squares.sqrt().add_(EPSILON), value=-rate)
