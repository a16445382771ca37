"""Slave of a simulated run: the real worker and working copies, over the network of the world.

The slave asks for leases, beats, pushes, fetches and keeps pairs as `slave.service` and `slave.network` do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from common.data.replicas import BatchRoutes
from common.errors import FencedError, LayerwiseError, NotFoundError, UnreachableError
from common.net.backoff import Backoff
from common.shards.pushes import Header, PushReply
from common.shards.working_copy import Push, WorkingCopy
from common.wire.boundary import Message
from common.wire.messages import HeartbeatReply, HeartbeatRequest, JoinReply, JoinRequest, Telemetry
from slave.training.worker import Computed, Done, Effect, Event, Fetch, Fetched, Passed, Send, Worker
from tests.faults.simulated.layers import build_copies, build_layer

if TYPE_CHECKING:
    from tests.faults.simulated.world import World

PATIENCE = 60.0
EAGER_SECONDS = 0.2


class SimulatedSlave:
    """Slave process, under successive leases.

    Attributes:
        alive: the process runs.
        frozen_until: the process is stopped until then.
        session: training under the present lease.
    """

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen_until = 0.0
        self.session: Session | None = None
        self._world = world
        self._backoff = self._new_backoff(0.5)
        self.join()

    def _new_backoff(self, first: float, longest: float | None = None) -> Backoff:
        world = self._world
        return Backoff(
            lambda: world.now,
            world.draws.random,
            first=first,
            longest=longest or first,
            patience=PATIENCE,
        )

    def join(self) -> None:
        """Ask for a lease until one is granted or the run is over."""
        world = self._world
        address = f"{self.name}:1" if world.plan.config.cluster.direct else ""
        request = JoinRequest(self.name, self.name, 1, "simulated", address)

        def work() -> JoinReply:
            reply = world.master.apply(lambda r, now: world.run.join(r, now), request)
            world.oracle.granted(self.name, reply)
            return reply

        world.call(self, work, self._joined, lambda: self.alive and self.session is None)

    def _joined(self, reply: JoinReply | LayerwiseError) -> None:
        world = self._world
        if isinstance(reply, LayerwiseError):
            if not isinstance(reply, UnreachableError):
                self.fail(reply)
                return
            world.after(self._backoff.next_delay(), self._join_again, self)
            return
        if reply.over:
            self.end()
        elif reply.granted:
            world.note("lease", self.name, reply.layer, reply.replica, reply.incarnation)
            self.session = Session(world, self, reply)
            self.session.open()
        else:
            world.after(self._backoff.next_delay(), self._join_again, self)

    def _join_again(self) -> None:
        if self.alive and self.session is None:
            self.join()

    def lose_lease(self, session: Session, error: LayerwiseError) -> None:
        """End a session, and ask for a new lease; an error that no lease heals ends the process."""
        if self.session is not session:
            return
        self._world.note("lost", self.name, str(error))
        self.session = None
        self._world.session_ended(session)
        if isinstance(error, FencedError) or (isinstance(error, UnreachableError) and not session.ready):
            self._world.after(0.05, self._join_again, self)
        elif isinstance(error, UnreachableError):
            self._world.slave_gave_up(self)
        else:
            self.fail(error)

    def fail(self, error: LayerwiseError) -> None:
        """End the process by an error that no fault explains."""
        self._world.slave_failed(self, error)

    def end(self) -> None:
        """End the process: the run is over."""
        self.alive = False
        if self.session is not None:
            session, self.session = self.session, None
            self._world.session_ended(session)
        self._world.note("end", self.name)


class Session:
    """Training under one lease.

    Attributes:
        incarnation: of the lease.
        seat: (layer, replica).
        ready: the layer is built.
        peers: incarnation at each neighbouring seat, as the master last said.
    """

    def __init__(self, world: World, slave: SimulatedSlave, lease: JoinReply) -> None:
        self.slave = slave
        self.lease = lease
        self.incarnation = lease.incarnation
        self.seat = (lease.layer, lease.replica)
        self.ready = False
        self.peers: dict[tuple[int, int], int] = {}
        self.worker: Worker | None = None
        self._world = world
        self._config = world.plan.config
        self._copies = build_copies(self._config, lease, world.oracle.slot(lease.incarnation))
        self._inbox: deque[Event] = deque()
        self._outgoing: deque[Push] = deque()
        self._pushing = False
        self._busy_until = 0.0
        self._beats = 0
        self._peers_version = 0
        self._failing_beats = self._backoff()
        self._failing_pushes = self._backoff()
        self._created: Callable[[PushReply], None] | None = None

    @property
    def current(self) -> bool:
        """Whether the session goes on."""
        return self.slave.alive and self.slave.session is self

    @property
    def receivers(self) -> list[tuple[int, int]]:
        """Seats above that take batches from this seat."""
        k, r = self.seat
        if k == self._config.layers:
            return []
        return [(k + 1, above) for above in BatchRoutes.of(self._config, k, r).receivers()]

    def _backoff(self) -> Backoff:
        world = self._world
        return Backoff(lambda: world.now, world.draws.random, patience=PATIENCE)

    def open(self) -> None:
        """Begin heartbeats, and fetch or create every shard."""
        self._beat()
        self._open(list(self._copies))

    def _open(self, left: list[tuple[WorkingCopy, object]]) -> None:
        if not left:
            self._build()
            return
        copy = left[0][0]

        def opened(reply: tuple[Header, bytes] | LayerwiseError) -> None:
            if isinstance(reply, NotFoundError):
                self._push(copy.create())
                if self._config.replicas[self.lease.layer - 1] > 1:
                    self._created = partial(self._opened, left)
                else:
                    self._open(left[1:])
            elif isinstance(reply, LayerwiseError):
                self.slave.lose_lease(self, reply)
            else:
                copy.begin(*reply)
                self._open(left[1:])

        self._call(lambda: self._world.master.pull(copy.name, self.incarnation), opened)

    def _opened(self, left: list[tuple[WorkingCopy, object]], reply: PushReply) -> None:
        """Go on with the shards that are left, once the first is created; another may have done so."""
        left[0][0].answered(reply)
        self._open(left)

    def _build(self) -> None:
        self.worker = Worker(build_layer(self._config, self.lease, self._copies))
        self.ready = True
        self._keep_linked()
        self._turn()

    def _call(self, work: Callable[[], object], then: Callable[..., None]) -> None:
        self._world.call(self.slave, work, then, lambda: self.current)

    # --- heartbeats

    def _beat(self) -> None:
        self._beats += 1
        telemetry = self._telemetry()
        request = HeartbeatRequest(self.incarnation, self._beats, telemetry, self._peers_version)
        world = self._world

        def beaten(reply: HeartbeatReply | LayerwiseError) -> None:
            if isinstance(reply, LayerwiseError):
                try:
                    delay = self._failing_beats.delay_after(reply)
                except LayerwiseError as error:
                    self.slave.lose_lease(self, error)
                    return
                world.after(delay, self._beat_again, self.slave)
                return
            self._failing_beats.reset()
            if reply.peers_version != self._peers_version:
                self._peers_version = reply.peers_version
                self.peers = {(peer.layer, peer.replica): peer.incarnation for peer in reply.peers}
            if reply.over or reply.begin or reply.stop:
                self.receive(reply)
            eager = telemetry.done or not telemetry.steps
            seconds = self._config.cluster.heartbeat_seconds
            world.after(EAGER_SECONDS if eager else seconds, self._beat_again, self.slave)

        self._call(lambda: world.master.apply(lambda r, now: world.run.heartbeat(r, now), request), beaten)

    def _beat_again(self) -> None:
        if self.current:
            self._beat()

    def _telemetry(self) -> Telemetry:
        if self.worker is None:
            return Telemetry(next_batch=self.lease.next_batch)
        return replace(self.worker.trained.telemetry(), done=self.worker.done)

    # --- shards

    def _push(self, push: Push) -> None:
        self._world.oracle.sent(push)
        self._outgoing.append(push)
        if not self._pushing:
            self._send_push()

    def _send_push(self) -> None:
        if not self._outgoing or not self.current:
            self._pushing = False
            return
        self._pushing = True
        push = self._outgoing[0]

        def answered(reply: PushReply | LayerwiseError) -> None:
            if isinstance(reply, LayerwiseError):
                try:
                    delay = self._failing_pushes.delay_after(reply)
                except LayerwiseError as error:
                    self.slave.lose_lease(self, error)
                    return
                self._world.after(delay, self._send_push, self.slave)
                return
            self._failing_pushes.reset()
            self._outgoing.popleft()
            if self._created is not None:
                created, self._created = self._created, None
                created(reply)
            else:
                self.receive(reply)
            self._send_push()

        self._call(lambda: self._world.master.push(push), answered)

    def _fetch(self, shard: str) -> None:
        def fetched(reply: tuple[Header, bytes] | LayerwiseError) -> None:
            if isinstance(reply, UnreachableError):
                self.receive(Fetched(shard))
            elif isinstance(reply, LayerwiseError):
                self.slave.lose_lease(self, reply)
            else:
                self.receive(Fetched(shard, *reply))

        self._call(lambda: self._world.master.pull(shard, self.incarnation), fetched)

    # --- the layer

    def _keep_linked(self) -> None:
        if self.current:
            for seat in self.receivers:
                self._world.links.connect(self, seat)
            self._world.after(0.3, self._keep_linked, self.slave)

    def receive(self, event: Event) -> None:
        """Take an event of the network."""
        if self.current:
            self._inbox.append(event)
            self._turn()

    def _turn(self) -> None:
        """Work until a step takes time or no work is left."""
        world = self._world
        while self.current and self.worker is not None and self._busy_until <= world.now:
            if self.worker.over:
                self.slave.end()
                return
            if self.slave.frozen_until > world.now:
                world.at(self.slave.frozen_until, self._turn)
                return
            steps = self.worker.trainer.steps
            try:
                if self._inbox:
                    effects = list(self.worker.handle(self._inbox.popleft()))
                elif self.worker.can_advance:
                    effects = list(self.worker.advance())
                else:
                    return
            except LayerwiseError as error:
                self.slave.lose_lease(self, error)
                return
            if self.worker.trainer.steps > steps:
                took = world.plan.step_seconds * world.draws.uniform(0.5, 1.5)
                self._busy_until = world.now + took
                world.after(took, partial(self._finish_step, effects), self.slave)
            else:
                self._carry_out(effects)

    def _finish_step(self, effects: Iterable[Effect]) -> None:
        self._carry_out(effects)
        self._turn()

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if not self.current:
                return
            match effect:
                case Send():
                    self._send(effect.message)
                case Push():
                    self._push(effect)
                case Fetch():
                    self._fetch(effect.shard)
                case Passed() | Done():
                    self._world.after(0.0, self._beat_now, self.slave)
                case Computed():
                    pass

    def _beat_now(self) -> None:
        if self.current:
            self._beats += 1
            request = HeartbeatRequest(self.incarnation, self._beats, self._telemetry(), self._peers_version)
            world = self._world
            work = lambda: world.master.apply(lambda r, now: world.run.heartbeat(r, now), request)  # noqa: E731
            self._call(work, lambda _: None)

    def _send(self, message: Message) -> None:
        self._world.links.send(self, message)
