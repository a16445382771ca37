"""Plan of a seed: the run's configuration, and rates of the faults, of which each seed has some."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from common.config import files
from common.config.sections import Config

# Mean seconds between two faults of a kind, for a seed that has the kind.
SECONDS_BETWEEN = {
    "kill master": 6.0,
    "kill master at a write": 5.0,
    "cut power": 9.0,
    "kill slave": 6.0,
    "freeze slave": 6.0,
    "cut link to master": 6.0,
    "cut link between slaves": 5.0,
    "fill disk": 12.0,
    "jump clock": 8.0,
    "snapshot": 6.0,
    "roll back": 14.0,
    "flip bit": 12.0,
}


@dataclass(frozen=True)
class Plan:
    """Run and faults of a seed.

    Attributes:
        config: of the run.
        faults: mean seconds between two faults, by kind.
        seconds: virtual seconds with faults; later the run must end by itself.
        spares: slaves beside a slave for each seat.
        lost: probability that a request or an answer is lost.
        late: probability that a message is late by seconds.
        again: probability that a request arrives a second time.
        step_seconds: mean time of a layer's step.
    """

    config: Config
    faults: dict[str, float]
    seconds: float
    spares: int
    lost: float
    late: float
    again: float
    step_seconds: float


def draw_plan(seed: int) -> Plan:
    """Draw the plan of a seed."""
    draws = random.Random(f"plan {seed}")
    chosen = [kind for kind in SECONDS_BETWEEN if draws.random() < 0.4]
    messages = [draws.choice((0.0, 0.0, 0.02, 0.1)) for _ in range(3)]
    return Plan(
        _draw_config(draws),
        {kind: SECONDS_BETWEEN[kind] * draws.uniform(0.5, 2.0) for kind in chosen},
        draws.uniform(10.0, 30.0),
        draws.choice((0, 1, 1, 2)),
        messages[0],
        messages[1],
        messages[2],
        draws.choice((0.05, 0.1, 0.3)),
    )


def _draw_config(draws: random.Random) -> Config:
    unlock = draws.choice(("none", "update", "update", "delayed", "local", "full"))
    layers, replicas = draws.choice(((2, 1), (3, 1), (3, 1), (2, 2)))
    settings = [
        f"network.cuts={list(range(1, layers))}",
        f"run.batches={draws.choice((30, 60))}",
        f"decoupling.unlock={unlock}",
        f"cluster.profile={draws.choice(('light', 'basic'))}",
        f"cluster.snapshot_seconds={draws.choice((2, 5, 10))}",
        f"downpour.n_push={draws.choice((1, 2, 5))}",
        "cluster.backup_steps=0",
    ]
    if replicas > 1:
        settings += [f"downpour.replicas={replicas}", f"downpour.n_fetch={draws.choice((2, 5))}"]
        if draws.random() < 0.3:
            settings += ["downpour.staleness=bound", f"downpour.bound={draws.choice((0, 2))}"]
    return _load(tuple(settings))


@lru_cache(maxsize=1024)
def _load(settings: tuple[str, ...]) -> Config:
    return files.load(None, settings)
