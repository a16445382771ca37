"""Plain convolutional network after cuda-convnet's for CIFAR-10, on which DNI was measured."""

from __future__ import annotations

from torch import nn

from common.config.models import CnnOptions
from common.errors import ConfigError
from common.models.images import image_shape


def build(options: CnnOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """Build units (B, C, H, W) -> (B, channels[0], H/2, W/2) -> ... -> (B, classes), halves rounded up.

    A unit is a 5x5 convolution with padding 2, BN, ReLU and a 3x3 pool of stride 2: maxima in the first,
    averages in the rest. The last is a Linear over the flattened map.

    Raises:
        ConfigError: the examples are not images, or too small for the number of pools.
    """
    size, height, width = image_shape("cnn", input_shape)
    units: list[nn.Module] = []
    for number, channels in enumerate(options.channels):
        if max(height, width) == 1:
            raise ConfigError(
                f"network.options.channels: {len(options.channels)} convolutions are too many for images of "
                f"{input_shape[1]}x{input_shape[2]}: {number} pools leave one pixel; give at most {number}"
            )
        units.append(_convolution(size, channels, first=number == 0))
        size, height, width = channels, -(-height // 2), -(-width // 2)
    return [*units, nn.Sequential(nn.Flatten(), nn.Linear(size * height * width, classes))]


def _convolution(size: int, channels: int, *, first: bool) -> nn.Sequential:
    # Padding 1 halves every size, odd sizes rounded up, so no pixel is left out. An average at the border is
    # over existing pixels alone, as in cuda-convnet.
    pool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
    if not first:
        pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
    return nn.Sequential(
        nn.Conv2d(size, channels, kernel_size=5, padding=2), nn.BatchNorm2d(channels), nn.ReLU(), pool
    )
