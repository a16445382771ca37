"""Auxiliary task of a recurrent layer: predict a later synthetic gradient (Jaderberg et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Auxiliary(nn.Module):
    """Head (B, S) -> (B, S): prediction, from an earlier state, of M's gradient at the end of the window.

    The task makes a state keep what the loss of two windows needs: M's and its own. The head takes tanh(s),
    since cells may grow large, and begins at zero, as M does.

    Args:
        size: S.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.network = nn.Linear(size, size)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def total(self, state: Tensor, delta: Tensor) -> Tensor:
        """Return the sum over the batch of ||A(s) - delta||^2, with a graph in A and in the state.

        Args:
            state: (B, S), `aux_horizon` steps before the end of the window.
            delta: (B, S), M's gradient at the end, without a graph.
        """
        residual: Tensor = self.network(torch.tanh(state)) - delta.detach()
        return residual.square().sum()
