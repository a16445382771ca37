"""Affine maps x -> A x + b, the parts of the virtual network v, with the operations of the closed forms.

Each map has `tangent(x)` = A x; `cotangent(g, like)` = A^T g, in the shape of the input `like` or a shape
that broadcasts to `like`; and `accumulate(x, g, bias)`, which adds the gradient of <g, A x + b> to the
`.grad`s of A and, with `bias`, of b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight


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
    """Mean of feature maps (B, C, H, W) over H and W, then an affine map."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute mean(x) W + b."""
        return super().forward(x.mean((2, 3)))

    def tangent(self, x: Tensor) -> Tensor:
        """Compute mean(x) W."""
        return super().tangent(x.mean((2, 3)))

    def cotangent(self, g: Tensor, like: Tensor) -> Tensor:
        """Compute g W^T / (H W), equal at all positions: (B, C, 1, 1)."""
        return (super().cotangent(g, like) / like[0, 0].numel())[:, :, None, None]

    def accumulate(self, x: Tensor, g: Tensor, bias: bool = True) -> None:
        """Add the gradients of the affine map of mean(x)."""
        super().accumulate(x.mean((2, 3)), g, bias)


class Convolution(nn.Conv2d):
    """Convolution x (B, in, H, W) -> (B, out, H, W), padded to keep H and W."""

    bias: nn.Parameter

    def __init__(self, size: int, width: int, kernel: int) -> None:
        super().__init__(size, width, kernel, padding=kernel // 2)
        self._padding = kernel // 2

    def tangent(self, x: Tensor) -> Tensor:
        """Compute the convolution without bias."""
        return F.conv2d(x, self.weight, padding=self._padding)

    def cotangent(self, g: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the transposed convolution."""
        return F.conv_transpose2d(g, self.weight, padding=self._padding)

    def accumulate(self, x: Tensor, g: Tensor, bias: bool = True) -> None:
        """Add the kernel's gradient, and the sum of g over batch and positions to the bias's."""
        kernel: Tensor = conv2d_weight(x, self.weight.shape, g, padding=self._padding)  # type: ignore[no-untyped-call]
        _add(self.weight, kernel)
        if bias:
            _add(self.bias, g.sum((0, 2, 3)))


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        # Contiguous as the parameter, whatever h's layout: a fused step reads both in memory order.
        parameter.grad = gradient.contiguous()
    else:
        parameter.grad.add_(gradient)
