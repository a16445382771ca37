"""Configuration of a run whose number of replicas changes while the run goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from common.config.sections import Config
from common.errors import ConfigError

# Most replicas of a layer that a run changes to, unless it began with more: places for streams depend on it.
MOST_RESIZED = 64


def most_replicas(config: Config) -> int:
    """Return the most replicas that a layer of a run may come to have."""
    if config.fixes_replicas:
        return max(config.replicas)
    return max(MOST_RESIZED, config.downpour.replicas_max or 1, *config.replicas)


def resized(config: Config, replicas: Sequence[int]) -> Config:
    """Return the configuration of a stage: with R replicas of every layer, or R by layer.

    Raises:
        ConfigError: the run cannot have these replicas, or cannot change its replicas at all.
    """
    if why := config.fixes_replicas:
        raise ConfigError(
            f"resize: this run cannot change its number of replicas, because of {why}; begin another run "
            "with another downpour.replicas"
        )
    counts = [*replicas] * config.layers if len(replicas) == 1 else [*replicas]
    if len(counts) != config.layers:
        raise ConfigError(
            f"resize: {len(counts)} numbers for {config.layers} layers; give one, or one a layer"
        )
    most = most_replicas(config)
    if not all(1 <= count <= most for count in counts):
        raise ConfigError(
            f"resize: {' '.join(map(str, counts))}: a layer of this run may have 1 to {most} replicas"
        )
    downpour = config.downpour
    # With one replica a warm start is over, or says nothing.
    warm_start = downpour.warm_start if max(counts) > 1 else 0
    downpour = dataclasses.replace(downpour, replicas=counts, warm_start=warm_start, replicas_max=None)
    return dataclasses.replace(config, downpour=downpour)
