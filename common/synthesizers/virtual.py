"""VFBN (Miyato et al., 2017): the predicted delta is the gradient of a small virtual forward network v.

delta hat = d L(y, v(h)) / dh, where L is the task's loss. v consists of affine maps with ReLU between them,
so v is linear around each h, and its training needs no double backward through v. With J = dv/dh, s and H the
gradient and the Hessian of L at v(h), and the residual G = (2/B)(J^T s - delta), the differential of L_M is

    dL_M = <G, d(J^T s)> = <s, dJ G> + <H t, dv>,  t = J G.

The first term is the gradient of s . (J G) with s fixed: G goes up through v as a tangent, s comes down as a
cotangent. The second is the gradient of v itself, with the cotangent H t. No further term exists, because
ReLU'' = 0. For cross-entropy, s = p - y and H t = p * (t - <p, t>), with p = softmax(v(h)) and a one-hot y.

Beside L_M, v learns from L itself, times `supervised`: the first gradients of a run say little of the task,
and L_M vanishes with them. As published, v learns from L_M alone (`supervised` = 0).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config.synthesizers import VfbnOptions
from common.synthesizers.affine import Linear
from common.synthesizers.base import Virtual, has_positions
from common.tasks import Expansion, Task

HIDDEN = 64
# Cells of the grid along each side. Means keep where a feature is, and cost a pass over the map.
CELLS = 4


class _Pass(NamedTuple):
    """Result of a forward pass through v.

    Attributes:
        inputs: every map's input.
        s: gradient of L at the output, (B, N).
        expansion: of L at the output, (B, *output_shape).
    """

    inputs: list[Tensor]
    s: Tensor
    expansion: Expansion


class VirtualForward(Virtual):
    """M of VFBN in closed form.

    v is a Linear, or two with ReLU between. Of a feature map, v sees the means over the cells of a grid.
    Where h has a row for each position of the output, v is that of vectors at each position. v has no batch
    normalization, whose statistics would make one example's gradient depend on the others.
    """

    def __init__(self, options: VfbnOptions, shape: tuple[int, ...], task: Task) -> None:
        super().__init__()
        self.task = task = task.for_synthesis()
        self.trained = options.trained
        self._supervised = options.supervised
        self._positions = has_positions(shape, task)
        self._grid: tuple[int, int] | None = None
        if self._positions:
            # A linear v was better on text (docs/results.md).
            self.maps = _maps(options.hidden or 0, shape[1:], task.outputs)
        else:
            if len(shape) == 3:
                self._grid = (min(CELLS, shape[1]), min(CELLS, shape[2]))
                shape = (shape[0], *self._grid)
            self.maps = _maps(options.hidden, shape, math.prod(task.output_shape))
        self.v = nn.ModuleList(self.maps)

    @torch.no_grad()
    def gradient(self, h: Tensor, y: Tensor) -> Tensor:
        """Compute J^T s, the gradient at h of v's loss."""
        inputs, s, _ = self._forward(self._reshape(h), y)
        return self._spread(self._down(inputs, s)[0], h)

    @torch.no_grad()
    def learn(self, h: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """Add the gradients of L_M, given in the module's docstring, and of L, unless v is frozen.

        Returns:
            L_M, a scalar.
        """
        inputs, s, expansion = self._forward(self._reshape(h), y)
        cotangents = self._down(inputs, s)
        residual = self._spread(cotangents[0], h).sub_(delta)
        loss: Tensor = torch.linalg.vector_norm(residual).square() / len(h)
        if self.trained:
            if self._supervised:
                self._teach(inputs, cotangents, self._supervised / len(h))
            self._accumulate(inputs, expansion, cotangents, self._reshape(residual), 2 / len(h))
        return loss

    @torch.no_grad()
    def supervise(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Train v on the task itself, with h as input."""
        inputs, s, expansion = self._forward(self._reshape(h), y)
        cotangents = self._down(inputs, s)
        delta = self._spread(cotangents[0], h)
        loss = expansion.total()
        if self.trained:
            self._teach(inputs, cotangents, 1 / len(h))
        return delta, loss

    def _teach(self, inputs: list[Tensor], cotangents: list[Tensor], scale: float) -> None:
        """Add the gradient of L times a factor."""
        for affine, x, cotangent in zip(self.maps, inputs, cotangents, strict=True):
            affine.accumulate(x, cotangent * scale)

    def _accumulate(
        self,
        inputs: list[Tensor],
        expansion: Expansion,
        cotangents: list[Tensor],
        residual: Tensor,
        scale: float,
    ) -> None:
        """Add the gradient of L_M; the factor `scale`, 2/B, goes to small tensors."""
        tangents, t = self._tangents(inputs, residual)
        through_loss = expansion.hessian(t.view_as(expansion.delta)).view_as(t)
        downs = self._down(inputs, through_loss.mul_(scale))
        for affine, x, down, u, cotangent in zip(self.maps, inputs, downs, tangents, cotangents, strict=True):
            affine.accumulate(x, down)
            affine.accumulate(u, cotangent.mul_(scale), bias=False)

    def _reshape(self, x: Tensor) -> Tensor:
        if self._positions:
            return x.flatten(0, 1)
        if self._grid is not None:
            x = F.adaptive_avg_pool2d(x, self._grid)
        return x.reshape(len(x), -1)

    def _spread(self, cotangent: Tensor, h: Tensor) -> Tensor:
        """Carry a cotangent of the first map's output down to h."""
        g = self.maps[0].cotangent(cotangent)
        if self._grid is None:
            return g.view_as(h)
        means = g.view(len(h), -1, *self._grid)
        # A mean's gradient is dealt out over the positions of its cell.
        spread: Tensor = torch.ops.aten._adaptive_avg_pool2d_backward(means, h)
        return spread

    def _forward(self, h: Tensor, y: Tensor) -> _Pass:
        inputs = [h]
        for affine in self.maps[:-1]:
            inputs.append(affine(inputs[-1]).relu_())
        output = self.maps[-1](inputs[-1])
        expansion = self.task.expand(output.view(len(y), *self.task.output_shape), y)
        return _Pass(inputs, expansion.delta.reshape(len(output), -1), expansion)

    def _down(self, inputs: list[Tensor], top: Tensor) -> list[Tensor]:
        """Carry a cotangent of v's output (B, N) down to every map's output, listed first map first."""
        cotangents = [top]
        for affine, x in zip(self.maps[:0:-1], inputs[:0:-1], strict=True):
            cotangents.append(_through_relu(affine.cotangent(cotangents[-1]), x))
        return cotangents[::-1]

    def _tangents(self, inputs: list[Tensor], tangent: Tensor) -> tuple[list[Tensor], Tensor]:
        """Carry a tangent at h up: return every map's input, and t, the last map's output (B, N)."""
        tangents = [tangent]
        for affine, x in zip(self.maps[:-1], inputs[1:], strict=True):
            tangents.append(_through_relu(affine.tangent(tangents[-1]), x))
        return tangents, self.maps[-1].tangent(tangents[-1])


def _through_relu(g: Tensor, x: Tensor) -> Tensor:
    """Compute g where the ReLU's output x is positive, else 0: one kernel, a sixth of a mask's time."""
    return torch.ops.aten.threshold_backward(g.expand_as(x), x, 0)  # type: ignore[no-any-return]


def _maps(hidden: int | None, shape: tuple[int, ...], outputs: int) -> list[Linear]:
    hidden = HIDDEN if hidden is None else hidden
    width = hidden or outputs
    first = Linear(math.prod(shape), width)
    return [first, Linear(hidden, outputs)] if hidden else [first]
