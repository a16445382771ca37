"""Affine maps x -> A x + b, the parts of the virtual network v, with the operations of the closed forms.

Each map has `tangent(x)` = A x; `cotangent(g, like)` = A^T g, in the shape of the input `like` or a shape
that broadcasts to `like`; and `accumulate(x, g, bias)`, which adds the gradient of <g, A x + b> to the
`.grad`s of A and, with `bias`, of b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Cells of the grid along each side. Means keep where a feature is, and cost a pass over the map.
CELLS = 4


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

    def cotangent(self, g: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002 - spatial maps need the shape of `like`
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


class PooledLinear(Linear):
    """Means of feature maps (B, C, H, W) over the cells of a grid, then an affine map of them all.

    Args:
        shape: C, H, W.
        width: numbers that come out.
    """

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        channels, height, breadth = shape
        self._grid = (min(CELLS, height), min(CELLS, breadth))
        super().__init__(channels * self._grid[0] * self._grid[1], width)

    def forward(self, x: Tensor) -> Tensor:
        """Compute means(x) W + b."""
        return super().forward(self._means(x))

    def tangent(self, x: Tensor) -> Tensor:
        """Compute means(x) W."""
        return super().tangent(self._means(x))

    def cotangent(self, g: Tensor, like: Tensor) -> Tensor:
        """Compute g W^T, dealt out over the positions of each cell: (B, C, H, W)."""
        means = super().cotangent(g, like).view(len(g), -1, *self._grid)
        spread: Tensor = torch.ops.aten._adaptive_avg_pool2d_backward(means, like)
        return spread

    def accumulate(self, x: Tensor, g: Tensor, bias: bool = True) -> None:
        """Add the gradients of the affine map of means(x)."""
        super().accumulate(self._means(x), g, bias)

    def _means(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self._grid).flatten(1)


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)
