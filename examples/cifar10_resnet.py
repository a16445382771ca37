"""ResNet-18 for CIFAR-10 (He et al. 2016, with the stem of small images), cut anywhere between two blocks.

layerwise train examples/cifar10-resnet.toml --set data.path=FOLDER
"""

from torch import Tensor, nn


def convolution(size: int, width: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    layer = nn.Conv2d(size, width, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(width))


class Block(nn.Module):
    """Two convolutions beside a shortcut: one unit, since a cut cannot fall inside."""

    def __init__(self, size: int, width: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = convolution(size, width, stride), convolution(width, width)
        same = size == width and stride == 1
        self.shortcut = nn.Identity() if same else convolution(size, width, stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.second(self.first(x).relu())
        h = h + self.shortcut(x)
        return h.relu()


def build(input_shape: tuple[int, ...], classes: int, width: int = 64, blocks: int = 2) -> list[nn.Module]:
    """Build the units: a stem, four stages of blocks, a head; width is of the first stage."""
    units: list[nn.Module] = [nn.Sequential(convolution(input_shape[0], width), nn.ReLU())]
    size = width
    for stage in range(4):
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            units.append(Block(size, width << stage, stride))
            size = width << stage
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(size, classes))
    return [*units, head]
