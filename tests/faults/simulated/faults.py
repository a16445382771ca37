"""Faults of a simulated run, each by a rate of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.simulated.slave import SimulatedSlave
    from tests.faults.simulated.world import World


class Faults:
    """Faults that strike a world until it calms down."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kinds: dict[str, Callable[[], None]] = {
            "kill master": world.master.kill,
            "kill master at a write": lambda: world.master.kill_at_write(world.draws.randint(1, 40)),
            "cut power": self._cut_power,
            "kill slave": lambda: self._with_slave(world.kill_slave),
            "freeze slave": lambda: self._with_slave(self._freeze),
            "cut link to master": lambda: self._with_slave(self._cut),
            "cut link between slaves": self._cut_pair,
            "fill disk": self._fill_disk,
            "jump clock": self._jump_clock,
            "snapshot": world.master.snapshot,
            "roll back": world.master.roll_back,
            "flip bit": self._flip_bit,
        }

    def begin(self) -> None:
        """Plan the first fault of each kind."""
        for kind in self._kinds:
            if kind in self._world.plan.faults:
                self._plan(kind)

    def _plan(self, kind: str) -> None:
        world = self._world

        def strike() -> None:
            if not world.calm:
                world.note("fault", kind)
                self._kinds[kind]()
                self._plan(kind)

        world.after(world.draws.expovariate(1 / world.plan.faults[kind]), strike)

    def end(self) -> None:
        """Heal what a fault left."""
        world = self._world
        world.disk.full = False
        world.cut_slaves.clear()
        world.cut_pairs.clear()
        if world.master.running is not None:
            world.master.kill_at_write(0)

    def _with_slave(self, strike: Callable[[SimulatedSlave], None]) -> None:
        alive = [slave for slave in self._world.slaves if slave.alive]
        if alive:
            strike(self._world.draws.choice(alive))

    def _cut_power(self) -> None:
        world = self._world
        world.master.kill()
        world.disk.cut_power()
        world.oracle.may_lose = True
        world.time.monotonic_offset = world.draws.uniform(10.0, 1e6) - world.now

    def _flip_bit(self) -> None:
        """Kill the master, and flip a bit of a shard's buffers before the next start."""
        world = self._world
        if world.master.running is None:
            return
        pairs = world.master.running.state.pairs
        if not pairs:
            return
        pair = pairs[world.draws.choice(sorted(pairs))]
        world.master.kill()
        buffer = world.draws.choice(pair.buffers)
        buffer[world.draws.randrange(buffer.nbytes)] ^= 1 << world.draws.randrange(8)
        world.oracle.may_lose = world.flipped = True

    def _freeze(self, slave: SimulatedSlave) -> None:
        slave.frozen_until = self._world.now + self._world.draws.uniform(0.5, 6.0)

    def _cut(self, slave: SimulatedSlave) -> None:
        world = self._world
        world.cut_slaves[slave.name] = world.draws.choice(((True, True), (True, False), (False, True)))
        if slave.session is not None and not world.plan.config.cluster.direct:
            world.links.break_all(session=slave.session)

        def heal() -> None:
            world.cut_slaves.pop(slave.name, None)

        world.after(world.draws.uniform(0.5, 6.0), heal)

    def _cut_pair(self) -> None:
        world = self._world
        names = [slave.name for slave in world.slaves if slave.alive]
        if len(names) < 2:
            return
        one, other = world.draws.sample(names, 2)
        if not world.plan.config.cluster.direct:
            return
        world.cut_pairs.add(frozenset((one, other)))
        world.links.break_between(one, other)
        world.after(world.draws.uniform(0.5, 6.0), lambda: world.cut_pairs.discard(frozenset((one, other))))

    def _fill_disk(self) -> None:
        world = self._world
        world.disk.full = True

        def empty() -> None:
            world.disk.full = False

        world.after(world.draws.uniform(0.5, 5.0), empty)

    def _jump_clock(self) -> None:
        world = self._world
        world.time.wall_offset += world.draws.choice((-1, 1)) * world.draws.uniform(10.0, 4 * 3600.0)
        if world.draws.random() < 0.5:
            world.time.monotonic_offset += world.draws.uniform(1.0, 4 * 3600.0)
