"""Stochastic gradient descent (Robbins and Monro 1951), with or without momentum (Polyak 1964)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.optim.optimizers import Settings
from common.optim.steps import Tensors


def step(
    settings: Settings,
    weights: Tensors,
    gradients: Tensors,
    moments: Sequence[Tensors],
    steps: Tensor,  # noqa: ARG001 - as in `Step`
    rate: float,
    divisor: Tensor | None = None,
) -> None:
    """Step as `torch.optim.SGD` with fused=True.

    Arguments as of `Step`.
    """
    # The first step's momentum is the gradient, and a momentum of zeros also becomes the gradient.
    torch._fused_sgd_(
        weights, gradients, moments[0] if moments else [], lr=rate, momentum=settings.momentum,
        weight_decay=settings.weight_decay, dampening=0.0, nesterov=settings.nesterov, maximize=False,
        is_first_step=False, grad_scale=divisor,
    )  # fmt: skip
