"""Two recurrent networks with clocks of their own, after section 3.2 of Jaderberg et al. (2016).

A sees a digit of MNIST a step, and says every 4 steps how many of the last 4 digits were odd. B ticks every 4
steps of A on a message from A, and says how many of the last 16 digits were 3s, which A is never asked.
"""

import torch
import two_clocks_task as task  # type: ignore[import-not-found]
from torch import Tensor, nn


class Lstm(nn.Module):
    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.core = nn.LSTM(size, width, batch_first=True)
        self.state_size = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        return self.unroll(x, x.new_zeros(len(x), self.state_size))[0]

    def unroll(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = (part.contiguous() for part in state.unsqueeze(0).chunk(2, -1))
        output, (h, c) = self.core(x, (h, c))
        return output, torch.cat([h, c], -1).squeeze(0)


class NetworkA(Lstm):
    def __init__(self, size: int, width: int) -> None:
        super().__init__(size, width)
        self.head = nn.Linear(width, task.TICK + 1)

    def losses(self, h: Tensor, y: Tensor) -> Tensor:
        losses: Tensor = task.cross_entropy(self.head(task.ticks(h)), y, task.ODD)
        return losses

    def metrics(self, h: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"error_percent": task.error_percent(self.head(task.ticks(h)), y, task.ODD)}


class Message(nn.Linear):
    def forward(self, h: Tensor) -> Tensor:
        return super().forward(task.ticks(h))


class Threes(nn.Linear):
    def metrics(self, h: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"error_percent": task.error_percent(h, y, task.THREES)}


def networks(width: int = 128, message: int = 32) -> list[nn.Module]:
    """Build the units: digits, A and its message, then B and its counts; cut after unit 3."""
    seen = nn.Sequential(nn.Flatten(2), nn.Linear(28 * 28, width), nn.ReLU())
    a = [seen, NetworkA(width, width), Message(width, message)]
    return [*a, Lstm(message, width), Threes(width, task.TICK**2 + 1)]
