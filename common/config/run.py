"""Section [run]: length, batches and seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.config.settings import key
from common.errors import ConfigError


@dataclass(frozen=True)
class RunConfig:
    """Length, batches and seed of a run."""

    name: str = key("layerwise", "name of the run, used for its folder")
    seed: int = key(0, "seed of the parameters, the batches and everything else that is random", minimum=0)
    batches: int = key(800, "mini-batches that every layer goes through", minimum=1, maximum=1e15)
    batch_size: int = key(64, "examples a mini-batch (B)", minimum=2)
    evaluate_every: int = key(200, "batches between two evaluations on the test set", minimum=1)
    keep: list[int] = key(
        [],
        "batches at which the network is measured and kept too, with M, as kept-BATCH.safetensors",
        minimum=1,
    )
    keep_best: bool = key(False, "keep the network of the best evaluation too, as best.safetensors")

    def __post_init__(self) -> None:
        if sorted(set(self.keep)) != self.keep:
            raise ConfigError(f"run.keep: {self.keep} must ascend without repeats")
        if self.keep and self.keep[-1] > self.batches:
            raise ConfigError(
                f"run.keep: {self.keep[-1]} is past the run's {self.batches} batches; give at most "
                f"{self.batches}, or more run.batches"
            )
        if not self.name.isprintable() or not self.name or Path(self.name).name != self.name:
            raise ConfigError(
                f"run.name: {self.name!r} cannot name a folder; use plain words without slashes"
            )
