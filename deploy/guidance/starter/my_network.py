"""The network of run.toml. Change it as you like: every module of the list is a unit."""

from torch import nn


def build(input_shape: tuple[int, ...], classes: int, width: int = 64) -> list[nn.Module]:
    """Return the units; the network is cut into layers between any two of them.

    Args:
        input_shape: shape of an example, from the data.
        classes: outputs that the task needs, from the data.
        width: from network.options in run.toml.
    """
    (features,) = input_shape
    return [
        nn.Sequential(nn.Linear(features, width), nn.ReLU()),
        nn.Sequential(nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, classes),
    ]
