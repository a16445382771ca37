"""Section [simulation]: the virtual machines of `simulate` and `compare --in driver`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.config.settings import key
from common.errors import ConfigError


@dataclass(frozen=True)
class SimulationConfig:
    """Virtual machines, one a slave, and the network between them; a real cluster ignores the section."""

    seed: int = key(0, "seed of the schedule: jitter, losses, stragglers", minimum=0)
    rate: float = key(
        1.5e10, "multiply-adds a second of a slave (`simulate --measure`: of this machine)", above=0
    )
    overhead_seconds: float = key(3e-4, "seconds that a step takes beside the counted work", minimum=0)
    latency_seconds: float = key(2e-4, "seconds of a message from one machine to another", minimum=0)
    bandwidth_bytes_per_second: float = key(1.25e8, "bandwidth of each machine's link, each way", above=0)
    master_seconds: float = key(2e-4, "seconds that the master's one core takes for each message", minimum=0)
    jitter: float = key(
        0.1, "spread of computing and latency: sigma of a log-normal factor of median 1", minimum=0, maximum=3
    )
    loss: float = key(
        0.0,
        "probability that a message is lost: sent again, but given up with unlock full",
        minimum=0,
        maximum=0.9,
    )
    resend_seconds: float = key(0.2, "seconds until a lost message is sent again", minimum=0)
    stragglers: float = key(0.0, "part of the slaves, drawn at random, that are slow", minimum=0, maximum=1)
    straggler_factor: float = key(3.0, "factor of a straggler's computing time", above=0)
    machines: list[float] = key(
        [],
        "speeds of the machines at the beginning, 1 for that of `simulation.rate`: the first seats are dealt "
        "as by a master; empty: all of one speed",
        above=0,
    )
    slowed: dict[str, Any] = key(
        {}, 'slow slaves by name, layer or layer.replica, with their factor: { "2" = 4.0, "1.1" = 2.0 }'
    )
    deaths: dict[str, Any] = key({}, 'deaths of slaves, in virtual seconds: { "2" = 1.5 }')
    resizes: dict[str, Any] = key(
        {}, 'changes of downpour.replicas, by their first batch: { "500" = 3, "900" = [2, 1, 1] }'
    )
    restart_seconds: float = key(3.0, "seconds until a dead slave's successor joins", minimum=0)

    def __post_init__(self) -> None:
        for batch, replicas in self.resizes.items():
            counts = replicas if isinstance(replicas, list) else [replicas]
            number = batch.isdecimal() and str(int(batch)) == batch != "0"
            if not (number and counts and all(type(count) is int for count in counts)):
                raise ConfigError(
                    f'simulation.resizes."{batch}": expected a batch above 0, and a number of replicas, or '
                    f"one a layer, got {replicas!r}"
                )
        for name in ("slowed", "deaths"):
            for seat, value in getattr(self, name).items():
                seat_of(seat, f"simulation.{name}")
                if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                    raise ConfigError(f"simulation.{name}.{seat}: expected a number above 0, got {value!r}")


def seat_of(text: str, where: str) -> tuple[int, int]:
    """Parse "2" or "2.1" into (layer, replica).

    Raises:
        ConfigError: another form; `where` names the key.
    """
    layer, _, replica = text.partition(".")
    if not layer.isdecimal() or not (replica or "0").isdecimal():
        raise ConfigError(
            f'{where}: "{text}" names no slave; give "2" for layer 2, or "2.1" for its replica 1'
        )
    return int(layer), int(replica or 0)
