"""Residual network for small images of He et al. (2016)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from common.config.models import ResnetOptions
from common.models.images import image_shape
from common.models.residual import plain_convolution, pooled_head, residual_stages


def build(options: ResnetOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """Build the 6n + 2 layers of He et al., section 4.2: a stem, n units in each of three stages, a head.

    Units (B, C, H, W) -> (B, w, H, W) -> n each of (B, w, H, W), (B, 2w, H/2, W/2) and (B, 4w, H/4, W/4),
    halves rounded up -> (B, classes).

    Raises:
        ConfigError: the examples are not images.
    """
    size, _, _ = image_shape("resnet", input_shape)
    width = options.width
    units: list[nn.Module] = [nn.Sequential(plain_convolution(size, width), nn.BatchNorm2d(width), nn.ReLU())]
    units += [Residual(*each) for each in residual_stages(width, width, options.blocks)]
    units.append(nn.Sequential(*pooled_head(4 * width, classes)))
    return units


class Residual(nn.Module):
    """Block relu(body(x) + x); x takes the body's shape without parameters (option A of the paper)."""

    def __init__(self, size: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            plain_convolution(size, width, stride=stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            plain_convolution(width, width),
            nn.BatchNorm2d(width),
        )
        self._stride = stride
        self._missing = width - size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, size, H, W) to (B, width, H/stride, W/stride)."""
        h: Tensor = self.body(x)
        shortcut = x[:, :, :: self._stride, :: self._stride]
        # Missing channels of x are zero, half before the present channels and half after.
        before = self._missing // 2
        return F.relu(h + F.pad(shortcut, (0, 0, 0, 0, before, self._missing - before)))
