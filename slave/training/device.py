"""Device that a slave trains on."""

from __future__ import annotations

import torch

from common.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device of `--device`: auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: torch has no device of that name here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: is no device; use auto, cpu or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here; use auto or cpu"
        )
    return device
