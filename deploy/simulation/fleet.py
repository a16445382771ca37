"""Machines of a simulated run, and the stages in which the number of replicas is planned."""

from __future__ import annotations

import random
from collections.abc import Mapping

from common.config.resizing import resized
from common.config.sections import Config
from common.config.simulation import seat_of
from common.data.stages import Stages
from common.errors import ConfigError
from deploy.simulation.machine import Machine
from master.placing import deal_first


def plan(config: Config) -> Stages:
    """Return the stages of a simulated run.

    Raises:
        ConfigError: the run cannot have the planned replicas.
    """
    stages, resizes = Stages.first(config.replicas), config.simulation.resizes
    for start, replicas in sorted((int(batch), counts) for batch, counts in resizes.items()):
        if start >= config.run.batches:
            raise ConfigError(
                f'simulation.resizes."{start}": is not in a run of {config.run.batches} batches; give an '
                "earlier batch"
            )
        counts = replicas if isinstance(replicas, list) else [replicas]
        stages = stages.extended(start, resized(config, counts).replicas)
    return stages


class Fleet:
    """Machines by layer and replica; those of earlier stages keep their speed and their counts.

    Args:
        config: resolved configuration.
        draws: of stragglers.
        work: computing time of a batch by layer, in seconds.

    Attributes:
        present: machines of the present stage, the lowest layer first.

    Raises:
        ConfigError: a key of section `simulation` names a slave outside the run.
    """

    def __init__(self, config: Config, draws: random.Random, work: Mapping[int, float]) -> None:
        self._config, self._draws = config, draws
        self.present: dict[tuple[int, int], Machine] = {}
        self._all: dict[tuple[int, int], Machine] = {}
        stages = plan(config)
        self.deal(stages.replicas[0])
        self._seat(work)
        for counts in stages.replicas[1:]:
            self.deal(counts)
        for machine, factor in self.values("slowed").items():
            machine.slowness = factor
        self.deal(stages.replicas[0])

    def deal(self, replicas: tuple[int, ...]) -> None:
        """Have the machines of a stage."""
        seats = [(k, r) for k, count in enumerate(replicas, 1) for r in range(count)]
        self.present = {seat: self._all.get(seat) or self._build(*seat) for seat in seats}
        self._all |= self.present

    def _seat(self, work: Mapping[int, float]) -> None:
        """Give the machines of the first stage their speeds, as a master deals the first seats.

        Raises:
            ConfigError: the speeds are not one for each machine.
        """
        speeds = {str(number): speed for number, speed in enumerate(self._config.simulation.machines)}
        if not speeds:
            return
        if len(speeds) != len(self.present):
            raise ConfigError(
                f"simulation.machines: {len(speeds)} speeds for {len(self.present)} slaves; give one a slave"
            )
        for seat, name in deal_first([*self.present], speeds, work).items():
            self.present[seat].slowness /= speeds[name]

    def all(self) -> list[Machine]:
        """Machines of all stages."""
        return list(self._all.values())

    def values(self, key: str) -> dict[Machine, float]:
        """Return the values of a key of section `simulation` by machine.

        Raises:
            ConfigError: the key names a slave outside the run.
        """
        values = {}
        for name, value in getattr(self._config.simulation, key).items():
            machine = self._all.get(seat_of(name, f"simulation.{key}"))
            if machine is None:
                raise ConfigError(
                    f'simulation.{key}: there is no slave "{name}" among {self._config.replicas} replicas of '
                    f"{self._config.layers} layers; name layer.replica, counted from 1.0"
                )
            values[machine] = float(value)
        return values

    def _build(self, k: int, r: int) -> Machine:
        settings = self._config.simulation
        slow = self._draws.random() < settings.stragglers
        return Machine(k, r, settings.straggler_factor if slow else 1.0)
