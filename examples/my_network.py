"""Example of a user's network: `layerwise train --set network.model=examples/my_network.py:build`.

Each module of the returned list is a unit; the network can be cut between any two units.
"""

from torch import Tensor, nn


class Residual(nn.Module):
    """x + convolution(x): a block with a shortcut must be a single unit, since a cut cannot fall inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.convolution = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.convolution(self.norm(x).relu())
        return x + change


def build(input_shape: tuple[int, int, int], classes: int, channels: int = 16) -> list[nn.Module]:
    """Build the units; `input_shape` and `classes` come from the data, `channels` from `network.options`."""
    stem = nn.Conv2d(input_shape[0], channels, kernel_size=3, padding=1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes))
    return [stem, Residual(channels), Residual(channels), head]
