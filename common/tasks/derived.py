"""Expansion of any loss by autograd, for losses without a closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.tasks.base import Expansion


def expansion(losses: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor) -> Expansion:
    """Return the expansion of the sum of `losses` at a batch of outputs.

    Args:
        losses: (output, target) -> loss of each example, (B,), with a graph.
        output: (B, ...).
        target: (B, ...).
    """
    with torch.enable_grad():
        leaf = output.detach().requires_grad_()
        total = losses(leaf, target).sum()
        (delta,) = torch.autograd.grad(total, leaf, create_graph=True)

    def hessian(tangent: Tensor) -> Tensor:
        if not delta.requires_grad:  # a loss of pieces that are linear
            return torch.zeros_like(delta)
        (product,) = torch.autograd.grad(delta, leaf, tangent, retain_graph=True, materialize_grads=True)
        return product

    return Expansion(delta.detach().clone(), total.detach, hessian)
