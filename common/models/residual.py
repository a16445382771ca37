"""Parts of residual networks for small images (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def residual_stages(stem: int, width: int, blocks: int) -> Iterator[tuple[int, int, int]]:
    """Yield (channels in, channels out, stride) of every block of the three stages."""
    size = stem
    for stage in range(3):
        for block in range(blocks):
            yield size, width * 2**stage, 2 if stage and not block else 1
            size = width * 2**stage


def pooled_head(size: int, classes: int) -> list[nn.Module]:
    """Build a global average pool and a Linear whose bias starts at zero."""
    last = nn.Linear(size, classes)
    nn.init.zeros_(last.bias)
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), last]


def plain_convolution(size: int, width: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Build a convolution without a bias, since BN has one; drawn as by He et al. (2015), mode "fan_out"."""
    convolution = nn.Conv2d(size, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
