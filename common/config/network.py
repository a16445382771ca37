"""Section [network]: the network and the cuts between layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import settings
from common.config.models import MODELS, ModelOptions
from common.config.settings import choice, key
from common.config.values import is_user_function
from common.errors import ConfigError


@dataclass(frozen=True)
class NetworkConfig:
    """Network and cuts."""

    model: str = choice("mlp", MODELS, user_function=True)
    options: dict[str, Any] = key({}, "the model's own options, or keyword arguments of the user's function")
    layers: int | None = key(
        None, "K: cut into so many layers of equal counted cost; unset: one a unit", minimum=1
    )
    cuts: list[int] | None = key(
        None, "units after which to cut: [3] on six units gives 1-3 and 4-6", minimum=1
    )
    initial: str | None = key(
        None, "file of weights to begin from, .safetensors or .pt: a state dict of the plain network"
    )

    def __post_init__(self) -> None:
        if self.initial is not None and not self.initial.endswith((".safetensors", ".pt", ".pth")):
            raise ConfigError(
                f"network.initial: {self.initial}: its name must end in .safetensors, or in .pt or .pth of "
                "torch.save"
            )
        if self.cuts is not None and sorted(set(self.cuts)) != self.cuts:
            raise ConfigError(f"network.cuts: {self.cuts} must ascend without repeats")
        if self.cuts is not None and self.layers is not None and len(self.cuts) + 1 != self.layers:
            raise ConfigError(
                f"network.layers: {self.layers} contradicts network.cuts = {self.cuts}, which makes "
                f"{len(self.cuts) + 1} layers; give one of the two"
            )
        if not is_user_function(self.model):
            self._check_units(self.model_options().units)

    def _check_units(self, units: int) -> None:
        if self.layers is not None and self.layers > units:
            raise ConfigError(
                f"network.layers: {self.layers} layers cannot be cut from the {units} units of this "
                f"{self.model}; at most {units}"
            )
        if self.cuts and self.cuts[-1] >= units:
            raise ConfigError(f"network.cuts: {self.cuts} goes past the {units} units of this {self.model}")

    def model_options(self) -> ModelOptions:
        """Return the checked options of a built-in model."""
        return settings.read(MODELS[self.model].options, self.options, "network.options.")


def find_initial(initial: str, code: Path | None) -> Path:
    """Return the path of the weights to begin from on this machine.

    Args:
        initial: `network.initial`.
        code: folder in which the file is searched first, by its bare name.

    Raises:
        ConfigError: no such file.
    """
    path = Path(initial)
    for file in [path] if code is None else [code / path.name, path]:
        if file.is_file():
            return file
    there = "" if code is None else f", nor {path.name} in {code}"
    raise ConfigError(
        f"network.initial: {path}: no such file{there}; put it there on every machine of the run, or give a "
        "slave its folder by --code DIR"
    )
