"""Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.optim.optimizers import Settings
from common.optim.steps import Tensors
from common.optim.steps.adam import BETAS, EPSILON


def step(
    settings: Settings,
    weights: Tensors,
    gradients: Tensors,
    moments: Sequence[Tensors],
    steps: Tensor,
    rate: float,
    divisor: Tensor | None = None,
) -> None:
    """Step as `torch.optim.AdamW` with fused=True.

    Arguments as of `Step`.
    """
    torch._fused_adamw_(
        weights, gradients, moments[0], moments[1], [], [steps] * len(weights), lr=rate, beta1=BETAS[0],
        beta2=BETAS[1], weight_decay=settings.weight_decay, eps=EPSILON, amsgrad=False, maximize=False,
        grad_scale=divisor,
    )  # fmt: skip
