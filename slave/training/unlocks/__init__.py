"""The unlock modes: what a layer does with an input, and with a gradient, and what it sends."""

from __future__ import annotations

from collections.abc import Callable

from common.config.sections import Config
from common.draws import chance
from slave.training.decoupling import Layer, Synthesizing, Top, Unlock
from slave.training.health import Health
from slave.training.unlocks.delayed import DelayedUnlock
from slave.training.unlocks.local import Head, LocalUnlock
from slave.training.unlocks.none import NoUnlock
from slave.training.unlocks.update import UpdateUnlock


def unlocked(
    config: Config,
    layer: Layer,
    health: Health,
    synthesizer: Callable[[], Synthesizing],
    head: Callable[[], Head],
) -> Unlock:
    """The configured unlock of a layer; M, or its head, is made only where it is needed."""
    decoupling = config.decoupling
    if layer.k == config.layers:
        return Top(layer, health)
    if decoupling.unlock == "none":
        return NoUnlock(layer)
    if decoupling.unlock == "delayed":
        return DelayedUnlock(layer, decoupling.shrink)
    if decoupling.unlock == "local":
        return LocalUnlock(layer, head())
    return UpdateUnlock(layer, synthesizer(), health, stepping(config, layer.k), mix_true=decoupling.mix_true)


def stepping(config: Config, k: int) -> Callable[[int], bool]:
    """Whether layer k steps on the synthetic gradient of a batch: a function of (seed, k, b)."""
    probability, seed = config.decoupling.step_probability, config.run.seed
    return lambda batch: chance(seed, k, batch) < probability
