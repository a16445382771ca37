"""Adam with Nesterov's momentum (Dozat 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from common.optim.optimizers import Settings
from common.optim.steps import Tensors
from common.optim.steps.adam import BETAS, EPSILON

# The momentum of step t is beta_1 (1 - 0.5 * 0.96^(t * DECAY)).
DECAY = 4e-3
# Products of more momenta are zero in float32.
_MOST = 2000


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
    """Step as `torch.optim.NAdam`; where beta_1 changed, as if it had always had its present value.

    Arguments as of `Step`.
    """
    t, beta = int(steps), settings.beta
    if divisor is not None:
        torch._foreach_div_(gradients, divisor)
    if settings.weight_decay:
        gradients = list(torch._foreach_add(gradients, weights, alpha=settings.weight_decay))
    first, second = moments
    torch._foreach_lerp_(first, gradients, 1 - beta)
    torch._foreach_mul_(second, BETAS[1])
    torch._foreach_addcmul_(second, gradients, gradients, 1 - BETAS[1])
    roots = torch._foreach_div(second, 1 - BETAS[1] ** t)
    torch._foreach_sqrt_(roots)
    torch._foreach_add_(roots, EPSILON)
    now, next_one = _product(t, beta), _product(t + 1, beta)
    torch._foreach_addcdiv_(weights, gradients, roots, -rate * (1 - _momentum(t, beta)) / (1 - now))
    torch._foreach_addcdiv_(weights, first, roots, -rate * _momentum(t + 1, beta) / (1 - next_one))


def _momentum(t: int, beta: float) -> float:
    return beta * (1 - 0.5 * math.pow(0.96, t * DECAY))


@lru_cache(maxsize=4)
def _product(t: int, beta: float) -> float:
    """Multiply the momenta of steps 1 to t."""
    product = 1.0
    for each in range(1, min(t, _MOST) + 1):
        product *= _momentum(each, beta)
    return product
