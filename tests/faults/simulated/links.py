"""Pairs between neighbouring slaves of a simulated run.

Within an open pair messages keep their order; messages under way when a pair breaks are lost. Under unlock
`full` any message may be lost, late, repeated or overtaken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from common.errors import LayerwiseError
from common.wire.boundary import Message, Ready
from tests.faults.simulated.slave import Session

if TYPE_CHECKING:
    from tests.faults.simulated.world import World

Seat = tuple[int, int]


@dataclass(eq=False)
class Pair:
    """Open pair of sessions; `last` is the latest arrival, by receiver."""

    lower: Session
    upper: Session
    last: dict[Session, float] = field(default_factory=dict)


class Links:
    """Pairs of a world by their seats."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pairs: dict[tuple[Seat, Seat], Pair] = {}
        self._free = world.plan.config.decoupling.slots is not None
        self._direct = world.plan.config.cluster.direct

    def connect(self, lower: Session, seat: Seat) -> None:
        """Open the pair with the slave on a seat above, if both can be reached."""
        key = (lower.seat, seat)
        pair = self._pairs.get(key)
        if pair is not None and pair.lower is lower:
            return
        upper = self._world.session_at(seat)
        if upper is None or not upper.ready or not self._may_open(lower, upper):
            return
        self._pairs[key] = Pair(lower, upper)
        self._world.note("pair", *key)
        self._deliver(self._pairs[key], lower, Ready(layer=seat[0], sender=seat[1]))

    def _may_open(self, lower: Session, upper: Session) -> bool:
        world = self._world
        if self._direct:
            cut = world.cut_between(lower.slave.name, upper.slave.name)
            return not cut and lower.peers.get(upper.seat) == upper.incarnation
        if world.master.running is None or any(world.is_cut(each.slave) for each in (lower, upper)):
            return False
        try:
            for each in (lower, upper):
                world.master.running.run.roster.seat(each.incarnation)
        except LayerwiseError:
            return False
        return True

    def send(self, session: Session, message: Message) -> None:
        """Send a message to a neighbour; dropped without an open pair."""
        there = (message.layer, message.replica)
        key = (session.seat, there) if there[0] > session.seat[0] else (there, session.seat)
        pair = self._pairs.get(key)
        if pair is None or session not in (pair.lower, pair.upper):
            return
        receiver = pair.upper if session is pair.lower else pair.lower
        draws, plan = self._world.draws, self._world.plan
        if self._free:
            if draws.random() < plan.lost:
                return
            if draws.random() < plan.again:
                self._deliver(pair, receiver, message)
        self._deliver(pair, receiver, message)

    def _deliver(self, pair: Pair, receiver: Session, message: Message) -> None:
        world = self._world
        arrival = world.now + world.latency()
        if not self._free:
            arrival = max(arrival, pair.last.get(receiver, 0.0))
            pair.last[receiver] = arrival
        world.at(arrival, partial(self._arrive, pair, receiver, message))

    def _arrive(self, pair: Pair, receiver: Session, message: Message) -> None:
        if pair in self._pairs.values():
            self._world.note("message", receiver.slave.name, type(message).__name__, message.batch)
            receiver.receive(message)

    def break_all(self, *, via_master: bool = False, session: Session | None = None) -> None:
        """Break every pair, of a session, or all that lead through the master."""
        if via_master and self._direct:
            return
        self._pairs = {
            key: pair
            for key, pair in self._pairs.items()
            if session is not None and session not in (pair.lower, pair.upper)
        }

    def break_between(self, one: str, other: str) -> None:
        """Break the pairs between two slaves."""
        names = {one, other}
        self._pairs = {
            key: pair
            for key, pair in self._pairs.items()
            if {pair.lower.slave.name, pair.upper.slave.name} != names
        }
