"""Residual networks for small images: of He et al. (2016), wide ones of Zagoruyko and Komodakis (2016)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from common.config.options import ResnetOptions, WrnOptions
from common.models.images import image

STEM = 16


def build(options: ResnetOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """The 6n + 2 layers of He et al., section 4.2, in n units a stage, a stem before and a head after them.

    Units (B, C, H, W) -> (B, w, H, W) -> n each of (B, w, H, W), (B, 2w, H/2, W/2) and (B, 4w, H/4, W/4),
    halves rounded up -> (B, classes).

    Raises:
        ConfigError: the examples are no images.
    """
    size, _, _ = image("resnet", input_shape)
    width = options.width
    units: list[nn.Module] = [nn.Sequential(_convolution(size, width), nn.BatchNorm2d(width), nn.ReLU())]
    units += [Residual(*each) for each in _stages(width, width, options.blocks)]
    units.append(nn.Sequential(*_head(4 * width, classes)))
    return units


def build_wide(options: WrnOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """The wide network of 6n + 4 layers: n pre-activated units a stage, a stem before and a head after them.

    Units (B, C, H, W) -> (B, 16, H, W) -> n each of 16, 32 and 64 times `width` channels -> (B, classes).

    Raises:
        ConfigError: the examples are no images.
    """
    size, _, _ = image("wrn", input_shape)
    width = STEM * options.width
    units: list[nn.Module] = [nn.Sequential(_convolution(size, STEM))]
    units += [WideResidual(*each, options.dropout) for each in _stages(STEM, width, options.blocks)]
    top = 4 * width
    units.append(nn.Sequential(nn.BatchNorm2d(top), nn.ReLU(), *_head(top, classes)))
    return units


class Residual(nn.Module):
    """relu(body(x) + x), x's shape brought to the body's without parameters (option A of the paper)."""

    def __init__(self, size: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(size, width, stride=stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _convolution(width, width),
            nn.BatchNorm2d(width),
        )
        self._stride = stride
        self._missing = width - size

    def forward(self, x: Tensor) -> Tensor:
        """(B, size, H, W) -> (B, width, H/stride, W/stride)."""
        h: Tensor = self.body(x)
        shortcut = x[:, :, :: self._stride, :: self._stride]
        # The channels that x lacks are zero, half of them before its own and half after.
        before = self._missing // 2
        return F.relu(h + F.pad(shortcut, (0, 0, 0, 0, before, self._missing - before)))


class WideResidual(nn.Module):
    """body(a) + x, a = relu(BN(x)); where the shape changes, a 1x1 convolution of a in the place of x."""

    def __init__(self, size: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(size), nn.ReLU())
        self.body = nn.Sequential(
            _convolution(size, width, stride=stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            _convolution(width, width),
        )
        same = size == width and stride == 1
        self.shortcut = None if same else _convolution(size, width, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, size, H, W) -> (B, width, H/stride, W/stride)."""
        a = self.activation(x)
        h: Tensor = self.body(a)
        return h + (x if self.shortcut is None else self.shortcut(a))


def _stages(stem: int, width: int, blocks: int) -> Iterator[tuple[int, int, int]]:
    """(channels in, channels out, stride) of each block of the three stages."""
    size = stem
    for stage in range(3):
        for block in range(blocks):
            yield size, width * 2**stage, 2 if stage and not block else 1
            size = width * 2**stage


def _head(size: int, classes: int) -> list[nn.Module]:
    last = nn.Linear(size, classes)
    nn.init.zeros_(last.bias)
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), last]


def _convolution(size: int, width: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Without a bias, for BN has one; drawn as He et al. (2015), by the outputs as published codes do."""
    convolution = nn.Conv2d(size, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
