"""Linear recurrent net with squared loss, whose M in time is known exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.models.recurrent import Window
from common.synthesizers.time.regression import TimeSynthesizer


class LinearCore(nn.Module):
    """Linear recurrent net s' = A s + u, with the output C s'."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.state_size = size
        a = torch.randn(size, size, generator=generator)
        self.a = nn.Parameter(0.8 * a / torch.linalg.matrix_norm(a, 2))
        self.u = nn.Parameter(torch.randn(size, generator=generator))
        self.c = nn.Parameter(torch.randn(2, size, generator=generator))

    def unroll(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for _ in range(x.shape[1]):
            state = state @ self.a.T + self.u
            outputs.append(state @ self.c.T)
        return torch.stack(outputs, 1), state


def squared_loss(window: Window) -> Tensor:
    return (window.output - 1.5).square().sum()


def back_propagate_all(core: LinearCore, x: Tensor, start: Tensor) -> None:
    """Back-propagate the loss of the steps of x, and of all that follow without input.

    Later uses of the parameters count as constants, since their windows come.
    """
    output, state = core.unroll(x, start)
    total = (output - 1.5).square().sum()
    a, u, c = core.a.detach(), core.u.detach(), core.c.detach()
    for _ in range(200):
        state = state @ a.T + u
        total = total + (state @ c.T - 1.5).square().sum()
    total.backward()  # type: ignore[no-untyped-call]


def last_of(module: TimeSynthesizer) -> nn.Linear:
    last = module.network[-1]
    assert isinstance(last, nn.Linear)
    return last


def exact(core: LinearCore, scale: float) -> TimeSynthesizer:
    """Return the linear M that gives the gradient of all later squared residuals, found as a fixed point.

    With the gradient p s + q at a state, a step before the gradient is A^T (2 C^T (C s' - y) + p s' + q).
    """
    size = core.state_size
    a, u, c = (each.detach().double() for each in (core.a, core.u, core.c))
    p, q = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for _ in range(200):
        own = 2 * c.T @ c + p
        p, q = a.T @ own @ a, a.T @ (own @ u - 2 * c.T @ torch.full((2,), 1.5, dtype=torch.float64) + q)
    module = TimeSynthesizer(size, [], scale, squash=False).double()
    last = last_of(module)
    with torch.no_grad():
        last.weight.copy_(p / scale)
        last.bias.copy_(q / scale)
    return module
