"""M in time: the gradient of all later loss, from the state at a window's end (Jaderberg et al. 2016)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class TimeSynthesizer(nn.Module):
    """M in time: state (B, S) -> predicted gradient of the loss of all later windows, (B, S).

    The state is all that the future sees of the past, so one M serves every window. The state may hold
    several tensors side by side (h and c of an LSTM, several units of a layer).

    M's network takes z = tanh(s) and gives the gradient in z; the chain rule makes the gradient in s from
    that in z, times 1 - z^2. A cell that has grown large (c of an LSTM) has no true gradient any more.
    Without the rule M's noise would be its whole gradient, and an optimizer that divides by the size of
    gradients would let the cell grow for ever (docs/decisions/time.md).

    Args:
        size: S.
        hidden: widths of hidden layers with ReLU; [] is linear.
        scale: factor of the network's output. M learns with the factor in place, so that the factor makes M's
            steps small and leaves the solution alone.
        squash: false: M's network takes s itself and gives the gradient in s, as a linear core needs.
    """

    def __init__(self, size: int, hidden: list[int], scale: float = 0.1, *, squash: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for taken, width in itertools.pairwise([size, *hidden]):
            layers += [nn.Linear(taken, width), nn.ReLU()]
        last = nn.Linear([size, *hidden][-1], size)
        # Zero: until M has learned, a window ends as in truncated back-propagation.
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.network = nn.Sequential(*layers, last)
        self.scale = scale
        self._squash = squash

    def forward(self, state: Tensor) -> Tensor:
        """Compute the prediction, with a graph in the parameters."""
        z = torch.tanh(state) if self._squash else state
        delta: Tensor = self.scale * self.network(z)
        return delta * (1 - z * z) if self._squash else delta

    @torch.no_grad()
    def gradient(self, state: Tensor) -> Tensor:
        """Predict the gradient at a state, without a graph; no state of M changes."""
        return self.forward(state)

    @torch.enable_grad()
    def learn(self, state: Tensor, delta: Tensor) -> Tensor:
        """Add the gradient of L_M to the `.grad`s; L_M = (1/B) sum over the batch of ||M(s) - delta||^2.

        Args:
            state: (B, S), the very state for which `delta` was computed.
            delta: target: the gradient at the start of the next window, which ends in M's own prediction.

        Returns:
            L_M before the step, a detached scalar.
        """
        loss = (self.forward(state.detach()) - delta.detach()).square().sum() / len(state)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
