"""Requirements of the convolutional networks on the data."""

from __future__ import annotations

from common.errors import ConfigError


def image_shape(model: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width) of an example.

    Raises:
        ConfigError: the examples are not images.
    """
    if len(input_shape) != 3:
        raise ConfigError(
            f"network.model: {model} takes images (channels, height, width), but the data's examples are "
            f'{input_shape}; choose "mlp"'
        )
    channels, height, width = input_shape
    return channels, height, width
