"""Sections [optimizer] and [optimizer.synthesizer]: the slave's optimizers of the layer, M and I."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from common.config import settings
from common.config.optimizers import DECAYS, OPTIMIZERS, SCHEDULES
from common.config.settings import choice, key
from common.errors import ConfigError


@dataclass(frozen=True)
class SynthesizerOptimizerConfig:
    """The optimizer of M and I."""

    section: ClassVar[str] = "optimizer.synthesizer"

    name: str = choice("adam", OPTIMIZERS)
    # No weight has a use for a step of a million: a larger rate is a slip, and would end in NaN much later.
    learning_rate: float = key(1e-3, "its learning rate", above=0, maximum=1e6)
    momentum: float = key(0.0, "of sgd", minimum=0, maximum=1)
    nesterov: bool = key(False, "of sgd, with momentum")
    weight_decay: float = key(0.0, "its weight decay", minimum=0)
    decayed: str = choice("all", DECAYS, "tensors that the weight decay shrinks")
    schedule: str = choice("constant", SCHEDULES)
    warm_up: int = key(0, "batches in which the rate rises evenly to the schedule's", minimum=0)
    clip_norm: float | None = key(
        None, "largest norm of the mean gradient of a layer, M or I; unset: any", above=0
    )
    accumulate: int = key(1, "batches whose mean gradient makes up a step", minimum=1)

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0 and "nesterov" in OPTIMIZERS[self.name].heeds:
            raise ConfigError(f"{self.section}.nesterov: needs {self.section}.momentum above 0")


@dataclass(frozen=True)
class LayerOptimizerConfig(SynthesizerOptimizerConfig):
    """The optimizer of a layer with keys of its own."""

    section: ClassVar[str] = "optimizer.layers"


@dataclass(frozen=True)
class OptimizerConfig(SynthesizerOptimizerConfig):
    """Slave's optimizer of the layer."""

    section: ClassVar[str] = "optimizer"

    layers: dict[str, Any] = key({}, "keys of single layers: {2 = {learning_rate = 0.01}}")
    synthesizer: SynthesizerOptimizerConfig = field(default_factory=SynthesizerOptimizerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for layer in self.layers:
            self._own(layer)

    def of_layer(self, k: int) -> SynthesizerOptimizerConfig:
        """Return the optimizer of layer k.

        Raises:
            ConfigError: as of the layer's own keys.
        """
        return self._own(str(k)) if str(k) in self.layers else self

    def check_layers(self, layers: int) -> None:
        """Check that single layers' keys name layers of a network of K layers.

        Raises:
            ConfigError: there is no such layer.
        """
        for layer in self.layers:
            if int(layer) > layers:
                raise ConfigError(f"optimizer.layers.{layer}: the network has {layers} layers")

    def _own(self, layer: str) -> SynthesizerOptimizerConfig:
        """Build the optimizer of a layer with keys of its own.

        Raises:
            ConfigError: no layer, or keys and values that no optimizer has.
        """
        own, name = self.layers[layer], f"optimizer.layers.{layer}"
        if not (layer.isascii() and layer.isdecimal() and int(layer)):
            raise ConfigError(f"{name}: expected a layer's number, from 1 on")
        if not isinstance(own, dict):
            raise ConfigError(f"{name}: expected a table, as in {{{layer} = {{learning_rate = 0.01}}}}")
        built = settings.read(LayerOptimizerConfig, self._inherited(own) | own, f"{name}.")
        settings.check_heeded(built, f"{name}.")
        return built

    def _inherited(self, own: dict[str, Any]) -> dict[str, Any]:
        """Return the keys that a layer shares with the others: those that its optimizer heeds."""
        row = OPTIMIZERS.get(own.get("name", self.name))
        heeded = {name for each in OPTIMIZERS.values() for name in each.heeds}
        foreign = heeded - set(row.heeds if row else ())
        names = [field.name for field in dataclasses.fields(SynthesizerOptimizerConfig)]
        values = {name: getattr(self, name) for name in names if name not in foreign}
        return {name: value for name, value in values.items() if value is not None}
