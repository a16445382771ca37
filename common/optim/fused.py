"""Torch's own fused optimizer steps on lists of tensors: what `torch.optim` calls, without what is around it.

Its classes group tensors at every step, and import torch's compiler (over a second) to be made at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.optim.optimizers import Settings

Tensors = list[Tensor]

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
ADAGRAD_EPSILON = 1e-10


def step(
    settings: Settings,
    weights: Tensors,
    gradients: Tensors,
    moments: Sequence[Tensors],
    steps: Tensor,
    rate: float,
    divisor: Tensor | None = None,
) -> None:
    """One step in place, as torch.optim's class of that name takes it with fused=True.

    Args:
        settings: the optimizer; its learning rate is not looked at.
        weights: float32.
        gradients: of each; with a divisor they are changed.
        moments: what is remembered, of each of the weights; zeros before the first step.
        steps: which step this is, from 1: a float32 scalar on the weights' device.
        rate: the learning rate.
        divisor: of the gradients, a float32 scalar, likewise.
    """
    if not weights:
        return
    s, counts = settings, [steps] * len(weights)
    shared: dict[str, Any] = {
        "lr": rate,
        "weight_decay": s.weight_decay,
        "maximize": False,
        "grad_scale": divisor,
    }
    if s.name == "adagrad":
        _adagrad(weights, gradients, moments[0], counts, shared)
    elif s.name == "sgd":
        # The first step's momentum is the gradient, which it also is after a momentum of zeros.
        torch._fused_sgd_(
            weights, gradients, moments[0] if moments else [], momentum=s.momentum, dampening=0.0,
            nesterov=s.nesterov, is_first_step=False, **shared,
        )  # fmt: skip
    else:
        fused = {"adam": torch._fused_adam_, "adamw": torch._fused_adamw_}[s.name]
        fused(
            weights, gradients, moments[0], moments[1], [], counts, amsgrad=False, beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1], eps=ADAM_EPSILON, **shared,
        )  # fmt: skip


def _adagrad(
    weights: Tensors, gradients: Tensors, sums: Tensors, counts: Tensors, shared: dict[str, Any]
) -> None:
    """Dean et al. 2012: eta_i = gamma / sqrt(sum of dw_i^2)."""
    if weights[0].device.type == "cpu":
        torch._fused_adagrad_(weights, gradients, sums, counts, lr_decay=0.0, eps=ADAGRAD_EPSILON, **shared)
        return
    # Torch has the fused one for CPUs alone.
    divisor, decay = shared["grad_scale"], shared["weight_decay"]
    for w, g, squares in zip(weights, gradients, sums, strict=True):
        g = g if divisor is None else g / divisor
        g = g.add(w, alpha=decay) if decay else g
        squares.addcmul_(g, g)
        w.addcdiv_(g, squares.sqrt().add_(ADAGRAD_EPSILON), value=-shared["lr"])
