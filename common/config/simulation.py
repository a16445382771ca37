"""The configuration's section on the machines that `simulate` and `compare --in driver` make up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.config.settings import key
from common.errors import ConfigError


@dataclass(frozen=True)
class SimulationConfig:
    """Made-up machines, one a slave, and the network between them; a real cluster knows none of it."""

    seed: int = key(0, "seed of the schedule: jitter, losses, stragglers", minimum=0)
    rate: float = key(
        1.5e10, "multiply-adds a second of a slave (`simulate --measure`: of this machine)", above=0
    )
    overhead_seconds: float = key(3e-4, "what a step takes beside what is counted", minimum=0)
    latency_seconds: float = key(2e-4, "from one machine to another", minimum=0)
    bandwidth_bytes_per_second: float = key(1.25e8, "of each machine's link, each way", above=0)
    master_seconds: float = key(2e-4, "what the master's one core takes for each message", minimum=0)
    jitter: float = key(
        0.1, "spread of computing and latency: sigma of a log-normal factor of median 1", minimum=0, maximum=3
    )
    loss: float = key(
        0.0, "probability that a message is lost: sent again, or in full given up", minimum=0, maximum=0.9
    )
    resend_seconds: float = key(0.2, "until what was lost is sent again", minimum=0)
    stragglers: float = key(0.0, "part of the slaves, drawn at random, that are slow", minimum=0, maximum=1)
    straggler_factor: float = key(3.0, "how many times longer a straggler computes", above=0)
    slowed: dict[str, Any] = key({}, 'the same by name: { "2" = 4.0, "1.1" = 2.0 } for layer.replica')
    deaths: dict[str, Any] = key({}, 'when a slave dies, in virtual seconds: { "2" = 1.5 }, likewise')
    restart_seconds: float = key(3.0, "until a dead slave's successor is there", minimum=0)

    def __post_init__(self) -> None:
        for name in ("slowed", "deaths"):
            for seat, value in getattr(self, name).items():
                seat_of(seat, f"simulation.{name}")
                if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                    raise ConfigError(f"simulation.{name}.{seat}: expected a number above 0, got {value!r}")


def seat_of(text: str, where: str) -> tuple[int, int]:
    """(layer, replica) of "2" or "2.1".

    Raises:
        ConfigError: it is neither.
    """
    layer, _, replica = text.partition(".")
    if not layer.isdecimal() or not (replica or "0").isdecimal():
        raise ConfigError(
            f'{where}: "{text}" names no slave; give "2" for layer 2, or "2.1" for its replica 1'
        )
    return int(layer), int(replica or 0)
