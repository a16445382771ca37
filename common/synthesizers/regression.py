"""DNI and cDNI (Jaderberg et al., 2016): delta is regressed on h, for cDNI on h and the target's context."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config.synthesizers import DniOptions, PropOptions
from common.synthesizers.base import GradientSynthesizer, has_positions
from common.synthesizers.rows import RowNorm
from common.tasks import Task

KERNEL = 5


class DeltaRegression(GradientSynthesizer):
    """M of DNI or cDNI: hidden layers (BN, ReLU), then a linear layer, initially zero.

    Layers are Linear for vectors, 5x5 convolutions with padding for feature maps, and Linear at each position
    where h has a row for each position of the output. With `context` (cDNI) the first layer sees the target's
    context (a label's is one-hot) concatenated, or as one plane for every number.
    """

    def __init__(self, options: DniOptions, shape: tuple[int, ...], task: Task, *, context: bool) -> None:
        super().__init__()
        task = task.for_synthesis()
        self._positions = has_positions(shape, task)
        self._spatial = len(shape) == 3
        size = shape[1] if self._positions else shape[0] if self._spatial else math.prod(shape)
        norm: type[nn.Module] = nn.Identity
        if options.batch_norm:
            norm = nn.BatchNorm2d if self._spatial else RowNorm
        widths = [size, *options.hidden, size]
        layer = _Convolution if self._spatial else _Linear
        self.layers = nn.ModuleList(
            layer(i, o, task if context and n == 0 else None)
            for n, (i, o) in enumerate(itertools.pairwise(widths))
        )
        self.norms = nn.ModuleList(norm(width) for width in options.hidden)
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def gradient(self, h: Tensor, y: Tensor) -> Tensor:
        """Predict delta; BN uses its running statistics, so rows are independent."""
        self.eval()
        return self._regress(self._reshape(h), y).view_as(h)

    @torch.enable_grad()
    def learn(self, h: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """Add the gradient of L_M, computed with the batch's statistics; running statistics follow."""
        self.train()
        residual = self._regress(self._reshape(h.detach()), y) - self._reshape(delta.detach())
        loss = residual.square().sum() / len(h)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _reshape(self, x: Tensor) -> Tensor:
        return x if self._spatial or self._positions else x.reshape(len(x), -1)

    def _regress(self, x: Tensor, y: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = torch.relu(norm(layer(x, y)))
        return self.layers[-1](x, y)  # type: ignore[no-any-return]


class PropagatingRegression(DeltaRegression):
    """M of SG+prop (Czarnecki et al. 2017): the regression of cDNI, whose loss teaches the layer, too."""

    def __init__(self, options: PropOptions, shape: tuple[int, ...], task: Task) -> None:
        super().__init__(options, shape, task, context=True)
        self._alpha = options.alpha

    def propagate(self, h: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """Return delta hat + alpha dL_SG/dh, with L_SG = ||delta hat - delta||^2 of each example.

        BN uses its running statistics, so rows are independent. No state changes.
        """
        self.eval()
        with torch.enable_grad():
            x = self._reshape(h.detach()).requires_grad_()
            synthetic = self._regress(x, y)
            residual = synthetic.detach() - self._reshape(delta)
            (gradient,) = torch.autograd.grad(synthetic, x, 2 * residual)
        return synthetic.detach().add_(gradient, alpha=self._alpha).view_as(h)


class _Linear(nn.Linear):
    """Linear over x (B, D) or (B, T, D), and the context of y."""

    def __init__(self, size: int, width: int, task: Task | None) -> None:
        super().__init__(size, width)
        self.task = task
        self.label = _label_table(task, width, size)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        z = super().forward(x)
        if self.task is None or self.label is None:
            return z
        context = self.task.context(y, self.label)
        if context.ndim != z.ndim:  # positions of y alone, or of x alone
            context = context.sum(1) if context.ndim > z.ndim else context.unsqueeze(1)
        return z + context


class _Convolution(nn.Conv2d):
    """5x5 convolution over x (B, C, H, W) and planes of y's context.

    A plane is constant but for the padding, so its convolution is the plane's kernel times the taps that fall
    inside the map: up to a thousand planes need not be built.
    """

    def __init__(self, size: int, width: int, task: Task | None) -> None:
        super().__init__(size, width, KERNEL, padding=KERNEL // 2)
        self.task = task
        self.label = _label_table(task, width, size, KERNEL * KERNEL)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        z = super().forward(x)
        if self.task is None or self.label is None:
            return z
        inside = F.unfold(z.new_ones(1, 1, *z.shape[2:]), KERNEL, padding=KERNEL // 2)
        kernels = self.task.context(y, self.label).view(len(y), z.shape[1], -1)
        return z + (kernels @ inside).view_as(z)


def _label_table(task: Task | None, width: int, size: int, taps: int = 1) -> nn.Parameter | None:
    """Return the weights of the context, (context_size, width * taps), beside an input of `size`."""
    if task is None:
        return None
    bound = ((size + task.context_size) * taps) ** -0.5
    return nn.Parameter(torch.empty(task.context_size, width * taps).uniform_(-bound, bound))
