"""Mean and standard deviation of raw inputs, by which bytes and floats are normalized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.data.examples import Arrays, Examples, input_bytes
from common.data.orders import draw_rows

_BLOCK = 4096
SAMPLED_ROWS = 1000
_SAMPLED_BYTES = 4 << 20


@dataclass(frozen=True)
class Scaling:
    """Normalization of a tensor of inputs to (raw * scale - mean) / std.

    The default stands for tensors that stay as they are: whole numbers such as tokens, and masks.

    Attributes:
        mean: mean of the raw inputs times `scale`: one for every channel, or one for all.
        std: standard deviation of the raw inputs times `scale`, likewise.
        scale: factor that brings raw inputs to the units of `mean` and `std`.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1.0


def measure(examples: Examples) -> dict[str, Scaling]:
    """Return the scaling of each tensor of bytes or floats, by name."""
    scaled = [name for name, form in examples.input_forms.items() if form.scaled]
    sample = sample_inputs(examples) if scaled else {}
    return {name: _measure(sample[name]) for name in scaled}


def _measure(x: np.ndarray) -> Scaling:
    scale = 1 / 255 if x.dtype == np.uint8 else 1.0
    return Scaling(*mean_and_std(x, scale), scale)


def sample_inputs(examples: Examples) -> Mapping[str, np.ndarray]:
    """Return the inputs that stand for all: of arrays in memory all, else of rows drawn by a fixed seed.

    The sample is an example at least, and at most `SAMPLED_ROWS` or 4 MiB.
    """
    if isinstance(examples, Arrays):
        return examples.x
    most = max(1, min(SAMPLED_ROWS, _SAMPLED_BYTES // input_bytes(examples)))
    if len(examples) <= most:
        return examples.inputs(np.arange(len(examples)))
    return examples.inputs(draw_rows(len(examples), most))


def mean_and_std(x: np.ndarray, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of `x * scale`: by channel for images (N, C, H, W), else a single value.

    Constant values get the raw deviation 1, so that they can be divided by it.
    """
    axes, count = ((0, 2, 3), x[:, :1].size) if x.ndim == 4 else (None, x.size)
    sums = squares = np.zeros(())
    # Blocks bound the memory; sums of bytes are exact in float64, hence equal on every machine.
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK].astype(np.float64)
        sums = sums + block.sum(axis=axes)
        squares = squares + np.square(block).sum(axis=axes)
    means = np.atleast_1d(sums / count)
    variances = np.atleast_1d(squares / count) - means**2
    std = [_divisor(mean, variance) for mean, variance in zip(means, variances, strict=True)]
    return tuple(float(mean * scale) for mean in means), tuple(each * scale for each in std)


def _divisor(mean: float, variance: float) -> float:
    std = math.sqrt(max(variance, 0.0))
    # Below a millionth of the mean, float32 holds only rounding.
    return std if std > 1e-6 * abs(mean) else 1.0
