"""Example of a user's recurrent network: a unit with `state_size` and `unroll` carries a state.

    layerwise train --set network.model=examples/gated.py:build --set data.dataset=text \
        --set data.path=FILE --set time.window=32 --set network.layers=2
"""

import torch
from torch import Tensor, nn


class Gated(nn.Module):
    """Minimal gated unit (Zhou et al. 2016) beside a shortcut: s <- (1 - g) s + g tanh(candidate).

    Attributes:
        state_size: S, the numbers of state of a stream; the state passes from window to window.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.state_size = width
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(2 * width, width)
        self.candidate = nn.Linear(2 * width, width)

    def unroll(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, T, D) and the next state (B, S), from x (B, T, D) and a state."""
        outputs = []
        for step in self.norm(x).unbind(1):
            gate = torch.sigmoid(self.gate(torch.cat([step, state], 1)))
            candidate = torch.tanh(self.candidate(torch.cat([step, gate * state], 1)))
            state = (1 - gate) * state + gate * candidate
            outputs.append(state)
        return x + torch.stack(outputs, 1), state

    def forward(self, x: Tensor) -> Tensor:
        """Return the output from zeros, without a state that goes on."""
        return self.unroll(x, x.new_zeros(len(x), self.state_size))[0]


def build(classes: int, width: int = 128, depth: int = 2) -> list[nn.Module]:
    """Build the units: an embedding of the tokens, gated units, a head of logits."""
    body = [Gated(width) for _ in range(depth)]
    return [nn.Embedding(classes, width), *body, nn.Linear(width, classes)]
