"""The affine maps x -> A x + b that v is made of, as closed forms need them.

Each has `tangent(x)` = A x; `cotangent(g, like)` = A^T g, in the shape of the input `like` or one that
broadcasts to it; and `accumulate(x, g, bias)`, which adds the gradient of <g, A x + b> to the `.grad`s of A
and, with `bias`, of b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight


class Linear(nn.Module):
    """x (B, in) -> x W + b (B, out).

    W is (in, out), not nn.Linear's (out, in): for few outputs, `x W` then takes two thirds of the time.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        bound = size**-0.5
        self.weight = nn.Parameter(torch.empty(size, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """X W + b."""
        return torch.addmm(self.bias, x, self.weight)

    def tangent(self, x: Tensor) -> Tensor:
        """X W."""
        return x @ self.weight

    def cotangent(self, g: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002 - maps with positions need its shape
        """G W^T."""
        return g @ self.weight.t()

    def accumulate(self, x: Tensor, g: Tensor, bias: bool = True) -> None:
        """Add x^T g, and the sum of g over the batch."""
        # The first of a step is written where the second is added: no zeros to begin with.
        if self.weight.grad is None:
            self.weight.grad = x.t() @ g
        else:
            self.weight.grad.addmm_(x.t(), g)
        if bias:
            _add(self.bias, g.sum(0))


class PooledLinear(Linear):
    """Feature maps (B, C, H, W) -> their mean over H and W -> Linear."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean, then x W + b."""
        return super().forward(x.mean((2, 3)))

    def tangent(self, x: Tensor) -> Tensor:
        """Mean, then x W."""
        return super().tangent(x.mean((2, 3)))

    def cotangent(self, g: Tensor, like: Tensor) -> Tensor:
        """G W^T / (H W), equal at all positions: (B, C, 1, 1)."""
        return (super().cotangent(g, like) / like[0, 0].numel())[:, :, None, None]

    def accumulate(self, x: Tensor, g: Tensor, bias: bool = True) -> None:
        """As the Linear's, of the mean."""
        super().accumulate(x.mean((2, 3)), g, bias)


class Convolution(nn.Conv2d):
    """x (B, in, H, W) -> (B, out, H, W), with padding that keeps H and W."""

    bias: nn.Parameter

    def __init__(self, size: int, width: int, kernel: int) -> None:
        super().__init__(size, width, kernel, padding=kernel // 2)
        self._padding = kernel // 2

    def tangent(self, x: Tensor) -> Tensor:
        """The convolution without its bias."""
        return F.conv2d(x, self.weight, padding=self._padding)

    def cotangent(self, g: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002
        """The transposed convolution."""
        return F.conv_transpose2d(g, self.weight, padding=self._padding)

    def accumulate(self, x: Tensor, g: Tensor, bias: bool = True) -> None:
        """Add the kernel's gradient, and the sum of g over batch and positions."""
        kernel: Tensor = conv2d_weight(x, self.weight.shape, g, padding=self._padding)  # type: ignore[no-untyped-call]
        _add(self.weight, kernel)
        if bias:
            _add(self.bias, g.sum((0, 2, 3)))


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        # As the parameter lies in memory, whatever h did: a fused step reads both in the same order.
        parameter.grad = gradient.contiguous()
    else:
        parameter.grad.add_(gradient)
