"""VFBN's own v, and a ResNet on crops of 24 x 24 pixels as in the paper (Miyato et al. 2017).

layerwise compare examples/vfbn-resnet110.toml --out DIR --set data.path=FOLDER
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 24


class Crop(nn.Module):
    """Crop each image at random and mirror half of them in training; take the centre in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        spare, steps = x.shape[2] - SIDE, torch.arange(SIDE, device=x.device)
        if not self.training:
            return x[:, :, spare // 2 :, spare // 2 :][:, :, :SIDE, :SIDE]
        top, left, mirrored = torch.rand(3, len(x), 1, device=x.device)
        rows, columns = (steps + (each * (spare + 1)).long() for each in (top, left))
        columns = torch.where(mirrored < 0.5, columns.flip(1), columns)
        each = torch.arange(len(x), device=x.device)[:, None, None]
        return x[each, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def convolution(size: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(size, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width))


class Block(nn.Module):
    """Two convolutions beside a skip, which gets channels of zeros where it lacks some."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.stride, self.lacking = (1 if size == width else 2), width - size
        self.first, self.second = convolution(size, width, self.stride), convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        skip = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.lacking))
        h: Tensor = self.second(self.first(x).relu()) + skip
        return h.relu()


def build(input_shape: tuple[int, ...], classes: int, depth: int = 110) -> list[nn.Module]:
    """Build the units: a stem behind the crop, (depth - 2) / 2 blocks in three stages, a head."""
    widths = [16] + [width for width in (16, 32, 64) for _ in range((depth - 2) // 6)]
    stem = nn.Sequential(Crop(), convolution(input_shape[0], 16), nn.ReLU())
    blocks = [Block(size, width) for size, width in pairwise(widths)]
    return [stem, *blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))]


def v(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build v: four convolutions in two blocks, the mean of each channel, and logits."""
    size = input_shape[0]
    blocks = [Block(size, size), Block(size, size)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(size, outputs))
