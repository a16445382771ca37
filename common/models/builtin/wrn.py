"""Wide residual network for small images of Zagoruyko and Komodakis (2016)."""

from __future__ import annotations

from torch import Tensor, nn

from common.config.models import WrnOptions
from common.models.images import image_shape
from common.models.residual import plain_convolution, pooled_head, residual_stages

STEM = 16


def build(options: WrnOptions, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """Build 6n + 4 layers: a stem, n pre-activated units in each of three stages, a head.

    Units (B, C, H, W) -> (B, 16, H, W) -> n units each of 16, 32, 64 times `width` channels -> (B, classes).

    Raises:
        ConfigError: the examples are not images.
    """
    size, _, _ = image_shape("wrn", input_shape)
    width = STEM * options.width
    units: list[nn.Module] = [nn.Sequential(plain_convolution(size, STEM))]
    units += [WideResidual(*each, options.dropout) for each in residual_stages(STEM, width, options.blocks)]
    top = 4 * width
    units.append(nn.Sequential(nn.BatchNorm2d(top), nn.ReLU(), *pooled_head(top, classes)))
    return units


class WideResidual(nn.Module):
    """Block body(a) + x, a = relu(BN(x)); where the shape changes, a 1x1 convolution of a replaces x."""

    def __init__(self, size: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(size), nn.ReLU())
        self.body = nn.Sequential(
            plain_convolution(size, width, stride=stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            plain_convolution(width, width),
        )
        same = size == width and stride == 1
        self.shortcut = None if same else plain_convolution(size, width, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, size, H, W) to (B, width, H/stride, W/stride)."""
        a = self.activation(x)
        h: Tensor = self.body(a)
        return h + (x if self.shortcut is None else self.shortcut(a))
