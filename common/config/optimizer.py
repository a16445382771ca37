"""Sections [optimizer] and [optimizer.synthesizer]: the slave's optimizers of the layer, M and I."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from common.config.optimizers import OPTIMIZERS, SCHEDULES
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
    schedule: str = choice("constant", SCHEDULES)

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0 and "nesterov" in OPTIMIZERS[self.name].heeds:
            raise ConfigError(f"{self.section}.nesterov: needs {self.section}.momentum above 0")


@dataclass(frozen=True)
class OptimizerConfig(SynthesizerOptimizerConfig):
    """Slave's optimizer of the layer."""

    section: ClassVar[str] = "optimizer"

    synthesizer: SynthesizerOptimizerConfig = field(default_factory=SynthesizerOptimizerConfig)
