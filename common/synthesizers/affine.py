"""Affine maps x -> A x + b, the parts of the virtual network v, with the operations of the closed forms.

Each map has `tangent(x)` = A x; `cotangent(g)` = A^T g; and `accumulate(x, g, bias)`, which adds the gradient
of <g, A x + b> to the `.grad`s of A and, with `bias`, of b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Affine map x (B, in) -> x W + b (B, out).

    W is (in, out), not nn.Linear's (out, in): with few outputs, `x W` then takes two thirds of the time.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        bound = size**-0.5
        self.weight = nn.Parameter(torch.empty(size, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Compute x W + b."""
        return torch.addmm(self.bias, x, self.weight)

    def tangent(self, x: Tensor) -> Tensor:
        """Compute x W."""
        return x @ self.weight

    def cotangent(self, g: Tensor) -> Tensor:
        """Compute g W^T."""
        return g @ self.weight.t()

    def accumulate(self, x: Tensor, g: Tensor, bias: bool = True) -> None:
        """Add x^T g to W's gradient and the sum of g over the batch to b's."""
        # The first gradient of a step is written, the second added: no memory has to be cleared.
        if self.weight.grad is None:
            self.weight.grad = x.t() @ g
        else:
            self.weight.grad.addmm_(x.t(), g)
        if bias:
            _add(self.bias, g.sum(0))


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)
