"""Torch's own fused optimizer steps on flat tensors: what `torch.optim` calls, without what is around it.

Its classes group tensors at every step, and import torch's compiler (over a second) to be made at all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.optimizers import Settings

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
ADAGRAD_EPSILON = 1e-10


def step(
    settings: Settings, w: Tensor, gradient: Tensor, moments: list[Tensor], steps: Tensor, rate: float
) -> None:
    """One step in place, as torch.optim's class of that name takes it with fused=True.

    Args:
        settings: the optimizer; its learning rate is not looked at.
        w: parameters, (P,) float32.
        gradient: (P,).
        moments: what is remembered, (P,) each; zeros before the first step.
        steps: which step this is, from 1: a float32 scalar on w's device.
        rate: the learning rate.
    """
    _STEPS[settings.name](settings, w, gradient, moments, steps, rate)


def _adagrad(s: Settings, w: Tensor, g: Tensor, moments: list[Tensor], steps: Tensor, rate: float) -> None:
    """Dean et al. 2012: eta_i = gamma / sqrt(sum of dw_i^2)."""
    if w.device.type != "cpu":  # torch has the fused one for CPUs alone
        g = g.add(w, alpha=s.weight_decay) if s.weight_decay else g
        moments[0].addcmul_(g, g)
        w.addcdiv_(g, moments[0].sqrt().add_(ADAGRAD_EPSILON), value=-rate)
        return
    torch._fused_adagrad_(
        [w], [g], moments, [steps], lr=rate, lr_decay=0.0, weight_decay=s.weight_decay,
        eps=ADAGRAD_EPSILON, maximize=False,
    )  # fmt: skip


def _sgd(s: Settings, w: Tensor, g: Tensor, moments: list[Tensor], steps: Tensor, rate: float) -> None:  # noqa: ARG001
    # The first step's momentum is the gradient, which it also is after a momentum of zeros.
    torch._fused_sgd_(
        [w], [g], moments, weight_decay=s.weight_decay, momentum=s.momentum, lr=rate,
        dampening=0.0, nesterov=s.nesterov, maximize=False, is_first_step=False,
    )  # fmt: skip


def _adam(s: Settings, w: Tensor, g: Tensor, moments: list[Tensor], steps: Tensor, rate: float) -> None:
    fused = torch._fused_adamw_ if s.name == "adamw" else torch._fused_adam_
    fused(
        [w], [g], moments[:1], moments[1:], [], [steps], amsgrad=False, lr=rate, beta1=ADAM_BETAS[0],
        beta2=ADAM_BETAS[1], weight_decay=s.weight_decay, eps=ADAM_EPSILON, maximize=False,
    )  # fmt: skip


_STEPS: dict[str, Callable[[Settings, Tensor, Tensor, list[Tensor], Tensor, float], None]] = {
    "adagrad": _adagrad,
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adam,
}
