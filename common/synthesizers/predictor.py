"""Networks of the input synthesizers I (Jaderberg et al. 2016, complete unlock): h_{k-1} regressed on x."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.signals.forms import TensorForm
from common.synthesizers.base import InputSynthesizer

# Stride in pixels of the first convolution where the last layer is a Linear.
VECTOR_STRIDE = 4
# Default widths of hidden linear layers, and channels of hidden convolutions.
LINEAR_HIDDEN = [256]
CONVOLUTION_HIDDEN = [16]

Shape = tuple[int, ...]


class Predictor(InputSynthesizer):
    """I: a chain of layers."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.network = nn.Sequential(*layers)
        self.trained = True

    def freeze(self) -> None:
        """Keep the network as drawn. Untrained tensors are buffers, which no optimizer's decay moves."""
        self.trained = False
        self.requires_grad_(False)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the network's value; BN takes its running statistics, so that rows are independent."""
        self.eval()
        h: Tensor = self.network(x)
        return h

    def learn(self, x: Tensor, h: Tensor) -> Tensor:
        """Add the gradient of L_I, taken with the batch's statistics, which the running ones follow."""
        if not self.trained:
            return _loss(self.predict(x), h)
        self.train()
        with torch.enable_grad():
            loss = _loss(self.network(x.detach()), h.detach())
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def _loss(predicted: Tensor, h: Tensor) -> Tensor:
    return (predicted - h).square().sum() / len(h)


def linear_layers(
    hidden: list[int], inputs: TensorForm, shape: Shape, *, batch_norm: bool = False
) -> list[nn.Module]:
    """Build hidden linear layers (BN, ReLU) of these widths, and the linear layer to h, with a PReLU.

    Most layers end in a ReLU, and a ReLU here takes a third off L_I; for layers with signed output the
    learned slope gives way.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    size = inputs.size
    for width in hidden:
        layers += [nn.Linear(size, width), *([nn.BatchNorm1d(width)] if batch_norm else []), nn.ReLU()]
        size = width
    return [*layers, nn.Linear(size, math.prod(shape)), nn.Unflatten(1, shape), nn.PReLU()]


def convolution_layers(
    hidden: list[int], inputs: TensorForm, shape: Shape, *, batch_norm: bool
) -> list[nn.Module]:
    """Build hidden convolutions (BN, ReLU) of these channels, and the layer to h: a Linear if h is a vector.

    The last layer has a PReLU, as that of `linear_layers`.

    The first convolution strides to the size of h, so that the rest is cheap. Its kernels overlap by half, so
    that I sees about as far as the layers below.
    """
    size, *pixels = inputs.shape
    spatial = len(shape) == 3
    grid = list(shape[1:]) if spatial else [-(-pixel // VECTOR_STRIDE) for pixel in pixels]
    rows, columns = (max(1, pixel // cells) for pixel, cells in zip(pixels, grid, strict=True))
    layers: list[nn.Module] = []
    for number, channels in enumerate(hidden):
        if number == 0:
            kernel = (2 * rows + 1, 2 * columns + 1)
            layers.append(nn.Conv2d(size, channels, kernel, stride=(rows, columns), padding=(rows, columns)))
            layers.append(nn.AdaptiveAvgPool2d((grid[0], grid[1])))
        else:
            layers.append(nn.Conv2d(size, channels, 3, padding=1))
        layers += [*([nn.BatchNorm2d(channels)] if batch_norm else []), nn.ReLU()]
        size = channels
    if spatial:
        return [*layers, nn.Conv2d(size, shape[0], 3, padding=1), nn.PReLU()]
    return [
        *layers,
        nn.Flatten(),
        nn.Linear(size * math.prod(grid), math.prod(shape)),
        nn.Unflatten(1, shape),
        nn.PReLU(),
    ]
