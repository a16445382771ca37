"""Linear networks and data without noise, for examples/linear-mse.toml and examples/linear-log.toml.

The optimum is a loss of 0. The test examples are the training examples, whose loss is minimized.
"""

import numpy as np
from torch import nn

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _points(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, size), and the signed distance of each from a plane, (N,)."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1000, size)).astype(np.float32)
    direction = generator.normal(size=size)
    return x, x @ direction / np.linalg.norm(direction)


def _regression(size: int) -> Arrays:
    x, distance = _points(size)
    y = distance[:, None].astype(np.float32)
    return x, y, x, y


def _classes(size: int) -> Arrays:
    x, distance = _points(size)
    # A gap, so that a plane separates the classes with room to spare.
    x, y = x[abs(distance) > 0.2], (distance > 0)[abs(distance) > 0.2].astype(np.int64)
    return x, y, x, y


def plane() -> Arrays:
    return _regression(2)


def space() -> Arrays:
    return _regression(100)


def plane_classes() -> Arrays:
    return _classes(2)


def space_classes() -> Arrays:
    return _classes(100)


def shallow(input_shape: tuple[int], classes: int) -> list[nn.Module]:
    """Build one linear unit, and a unit without weights above, so that an M can stand before the loss."""
    return [nn.Linear(*input_shape, classes), nn.Identity()]


def deep(input_shape: tuple[int], classes: int) -> list[nn.Module]:
    """Build ten hidden linear units and the output, without activations."""
    (size,) = input_shape
    return [*(nn.Linear(size, size) for _ in range(10)), nn.Linear(size, classes)]
