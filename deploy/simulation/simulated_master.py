"""Master of a simulated run, and its stores: the real shards behind a link and a core for each process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from common.config.sections import Config
from common.shards.pushes import Header, PushReply
from common.shards.working_copy import Push, WorkingCopy
from common.wire.messages import JoinReply
from deploy.simulation.clock import Clock
from deploy.simulation.wires import Link, Wires
from master.store.policies import policies
from master.store.store import Memory, Store
from master.stores import deal
from slave.training.worker import Fetch, Fetched


@dataclass
class Server:
    """Process that serves slaves: its link, and its one core with the seconds of work and their end."""

    link: Link = field(default_factory=Link)
    busy_seconds: float = 0.0
    busy_until: float = 0.0


class SimulatedMaster:
    """Master of a simulated run with its stores, and the ways to them.

    Args:
        config: of the run.
        clock: virtual.
        wires: between the machines.
        nbytes: returns the bytes of a shard, which a run without training does not hold.

    Attributes:
        servers: the master, then the stores.
        store: the shards.
        staleness: staleness of a push -> number of applied pushes.
        pushes: number of applied pushes.
        pulls: number of versions given to slaves.
    """

    def __init__(
        self, config: Config, clock: Clock, wires: Wires, nbytes: Callable[[str], int] = lambda _: 0
    ) -> None:
        self._nbytes = nbytes
        self.store = Store(Memory(), policies(config))
        self.staleness: Counter[int] = Counter()
        self.pushes = self.pulls = 0
        self._clock, self._wires = clock, wires
        self._seconds = config.simulation.master_seconds
        self.servers = [Server() for _ in range(1 + config.cluster.stores)]
        # Bytes dealt to each store, and the store of each shard.
        self._dealt = dict.fromkeys(range(1, 1 + config.cluster.stores), 0)
        self._places: dict[str, int] = {}

    def ask(
        self, link: Link, nbytes: int, event: Callable[[], None], shard: str = "", *, resent: bool = True
    ) -> None:
        """Have an event happen once a message about a shard has arrived from a link and the core is free.

        Without a shard the message goes to the master.
        """
        server = self._server(shard)

        def arrived() -> None:
            server.busy_seconds += self._seconds
            server.busy_until = max(server.busy_until, self._clock.now) + self._seconds
            self._clock.at(server.busy_until, event)

        arrival = self._wires.arrival(self._clock.now, link, server.link, nbytes, resent=resent)
        self._clock.at(arrival, arrived)

    def send(
        self, link: Link, nbytes: int, event: Callable[[], None], shard: str = "", *, resent: bool = True
    ) -> None:
        """Have an event happen once a message about a shard, or of the master, has arrived at a link."""
        server = self._server(shard)
        arrival = self._wires.arrival(self._clock.now, server.link, link, nbytes, resent=resent)
        self._clock.at(arrival, event)

    def _server(self, shard: str) -> Server:
        return self.servers[self._places.get(shard, 0)]

    def begin(self, lease: JoinReply, copy: WorkingCopy) -> None:
        """Bring a working copy to the present version of the shard, which is created if absent."""
        if copy.name not in self.store.versions():
            initial = copy.initial()
            self.store.create(initial.header, [(0, initial.buffer.data)])
            if self._dealt:
                self._places[copy.name] = number = deal(self._dealt)
                self._dealt[number] += self._nbytes(copy.name)
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
