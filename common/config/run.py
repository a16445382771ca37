"""Section [run]: length, batches, seed, and the weights that are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.config.settings import choice, key
from common.errors import ConfigError
from common.registry import Registry, Row


@dataclass(frozen=True, kw_only=True)
class AverageRow(Row):
    """A choice of the weights that are evaluated and saved.

    Attributes:
        averages: whether they are an average over batches, which the master keeps beside the weights.
    """

    averages: bool


AVERAGES = Registry(
    AverageRow(name="none", help="the newest weights", averages=False),
    AverageRow(
        name="ema",
        help="exponential moving average of the weights",
        heeds=("average_horizon",),
        averages=True,
    ),
)


@dataclass(frozen=True)
class RunConfig:
    """Length, batches and seed of a run, and the weights that are evaluated."""

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
    average: str = choice("none", AVERAGES, "weights that are evaluated and saved")
    average_horizon: int = key(
        1000,
        "batches that the average looks back on; fewer at first, a tenth of the batches so far",
        minimum=1,
        maximum=1e9,
    )

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

    @property
    def averages(self) -> bool:
        """Whether an average of the weights is kept."""
        return AVERAGES[self.average].averages

    @property
    def evaluated(self) -> str:
        """Kind of the shards that are evaluated and saved."""
        return "average" if self.averages else "weights"
