"""Master of a simulated run: the real store behind one link and one core."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from common.config.sections import Config
from common.shards.pushes import Header, PushReply
from common.shards.working_copy import Push, WorkingCopy
from common.wire.messages import JoinReply
from deploy.simulation.clock import Clock
from deploy.simulation.wires import Link, Wires
from master.store.policies import policies
from master.store.store import Memory, Store
from slave.training.worker import Fetch, Fetched


class SimulatedMaster:
    """Master of a simulated run, and the way to it.

    Attributes:
        store: the shards.
        staleness: staleness of a push -> number of applied pushes.
        pushes: number of applied pushes.
        pulls: number of versions given to slaves.
        busy_seconds: time spent by the master's core.
    """

    def __init__(self, config: Config, clock: Clock, wires: Wires) -> None:
        self.store = Store(Memory(), policies(config))
        self.staleness: Counter[int] = Counter()
        self.pushes = self.pulls = 0
        self._clock, self._wires = clock, wires
        self._seconds = config.simulation.master_seconds
        self._link = Link()
        self.busy_seconds = self._busy_until = 0.0

    def ask(self, link: Link, nbytes: int, event: Callable[[], None], *, resent: bool = True) -> None:
        """Have an event happen once a message from a link has arrived and the core is free."""

        def arrived() -> None:
            self.busy_seconds += self._seconds
            self._busy_until = max(self._busy_until, self._clock.now) + self._seconds
            self._clock.at(self._busy_until, event)

        self._clock.at(self._wires.arrival(self._clock.now, link, self._link, nbytes, resent=resent), arrived)

    def send(self, link: Link, nbytes: int, event: Callable[[], None], *, resent: bool = True) -> None:
        """Have an event happen once a message of the master has arrived at a link."""
        self._clock.at(self._wires.arrival(self._clock.now, self._link, link, nbytes, resent=resent), event)

    def begin(self, lease: JoinReply, copy: WorkingCopy) -> None:
        """Bring a working copy to the present version of the shard, which is created if absent."""
        if copy.name not in self.store.versions():
            initial = copy.initial()
            self.store.create(initial.header, [(0, initial.buffer.data)])
        self.pulls += 1
        copy.begin(*self._read(copy.name, lease.incarnation))

    def apply(self, push: Push) -> PushReply:
        """Apply a push, or refuse the push by the run's staleness rule."""
        reply = self.store.apply(push.header, [(0, push.buffer.data)])
        if reply.applied:
            self.pushes += 1
            self.staleness[reply.staleness] += 1
        return reply

    def fetched(self, lease: JoinReply, fetch: Fetch) -> Fetched:
        """Return the present version, or a fragment, for a slave."""
        self.pulls += 1
        return Fetched(
            fetch.shard, *self._read(fetch.shard, lease.incarnation, fetch.fragment, fetch.fragments)
        )

    def read(self, shard: str) -> tuple[Header, bytes]:
        """Return the present version, for an evaluator.

        Raises:
            NotFoundError: the store has no shard of the name.
        """
        return self._read(shard, 0)

    def _read(
        self, shard: str, incarnation: int, fragment: int = 0, fragments: int = 0
    ) -> tuple[Header, bytes]:
        moving = fragments > 0
        reading = self.store.read(shard, incarnation, moving=moving, fragment=fragment, fragments=fragments)
        try:
            return reading.header, bytes(reading.buffer)
        finally:
            reading.release()
