"""I, the input synthesizers (Jaderberg et al., 2016, complete unlock): h_{k-1} hat is regressed on x."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.config.options import HiddenInputOptions, InputOptions, LinearInputOptions
from common.errors import ConfigError
from common.synthesizers.base import InputSynthesizer

# Where convolutions end in a vector, the first strides over so many pixels.
VECTOR_STRIDE = 4

Shape = tuple[int, ...]


class Predictor(InputSynthesizer):
    """A network x -> h hat: a Linear (`linear`), hidden ones before it (`mlp`), or convolutions (`conv`).

    `frozen` is an mlp, or convolutions from images to feature maps, that stays as it was drawn: the control
    that every other I has to beat. All end in a PReLU: most layers end in a ReLU, and one here takes a third
    off L_I, but that of others is signed, and the learned slope gives way to it.
    """

    def __init__(self, kind: str, options: InputOptions, input_shape: Shape, shape: Shape) -> None:
        super().__init__()
        images = len(input_shape) == 3
        if kind == "conv" and not images:
            raise ConfigError(
                f"decoupling.input: conv takes images (channels, height, width), but the data's examples are "
                f'{input_shape}; choose "mlp"'
            )
        convolves = kind == "conv" or (kind == "frozen" and images and len(shape) == 3)
        layers = (_convolutions if convolves else _linears)(options, input_shape, shape)
        self.network = nn.Sequential(*layers, nn.PReLU())
        self.trained = kind != "frozen"
        # What is not trained is a buffer, which no optimizer's decay moves.
        self.requires_grad_(self.trained)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The network's value; BN takes its running statistics, so that rows are free of each other."""
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


def _linears(options: InputOptions, input_shape: Shape, shape: Shape) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten()]
    size = math.prod(input_shape)
    for width in _hidden(options, default=[256]):
        layers += [nn.Linear(size, width), *_norm(options, nn.BatchNorm1d(width)), nn.ReLU()]
        size = width
    return [*layers, nn.Linear(size, math.prod(shape)), nn.Unflatten(1, shape)]


def _convolutions(options: InputOptions, input_shape: Shape, shape: Shape) -> list[nn.Module]:
    """The first one strides to the size of h: the others are then cheap; to a vector, a Linear comes last.

    Its kernels overlap by half, so that the whole sees about as far as the layers below do.
    """
    size, *pixels = input_shape
    spatial = len(shape) == 3
    grid = list(shape[1:]) if spatial else [-(-pixel // VECTOR_STRIDE) for pixel in pixels]
    rows, columns = (max(1, pixel // cells) for pixel, cells in zip(pixels, grid, strict=True))
    layers: list[nn.Module] = []
    for number, channels in enumerate(_hidden(options, default=[16])):
        if number == 0:
            kernel = (2 * rows + 1, 2 * columns + 1)
            layers.append(nn.Conv2d(size, channels, kernel, stride=(rows, columns), padding=(rows, columns)))
            layers.append(nn.AdaptiveAvgPool2d((grid[0], grid[1])))
        else:
            layers.append(nn.Conv2d(size, channels, 3, padding=1))
        layers += [*_norm(options, nn.BatchNorm2d(channels)), nn.ReLU()]
        size = channels
    if spatial:
        return [*layers, nn.Conv2d(size, shape[0], 3, padding=1)]
    return [
        *layers,
        nn.Flatten(),
        nn.Linear(size * math.prod(grid), math.prod(shape)),
        nn.Unflatten(1, shape),
    ]


def _hidden(options: InputOptions, default: list[int]) -> list[int]:
    if isinstance(options, LinearInputOptions):
        return []
    return default if options.hidden is None else options.hidden


def _norm(options: InputOptions, norm: nn.Module) -> list[nn.Module]:
    return [norm] if isinstance(options, HiddenInputOptions) and options.batch_norm else []
