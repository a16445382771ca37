"""Peer of a task's closed forms: gradients and products with the Hessian by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from common.tasks import Task


def check_expansion(task: Task, output: Tensor, target: Tensor) -> None:
    """Compare the expansion of L at a batch of outputs, float64, with autograd's."""
    leaf = output.clone().requires_grad_()
    total = task.total(leaf, target)
    (delta,) = torch.autograd.grad(total, leaf, create_graph=True)
    tangent = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    product = torch.zeros_like(output)
    if delta.requires_grad:
        (found,) = torch.autograd.grad(delta, leaf, tangent, allow_unused=True)
        product = product if found is None else found
    with torch.no_grad():
        expansion = task.expand(output, target)
        torch.testing.assert_close(expansion.total(), total.detach())
        torch.testing.assert_close(expansion.hessian(tangent), product)
        torch.testing.assert_close(expansion.delta, delta.detach())
    assert not expansion.delta.requires_grad
