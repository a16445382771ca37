"""Composes the master of store, roster, relay and state directory, and owns its lifecycle."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import signal
import time
import uuid
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from common.config.sections import Config
from common.errors import (
    FencedError,
    LayerwiseError,
    MalformedError,
    RunFailedError,
    TooLargeError,
)
from common.lifecycle import INTERRUPTED, end_with_parent, give_way, keep_freed_memory
from common.net.addresses import split_address
from common.net.control import Server
from common.net.data.server import Server as BulkServer
from common.observe.utilization import Probe
from common.observe.web import Site
from common.shards import pushes
from common.shards.pushes import Operation
from common.shards.table import Table
from common.wire import messages as m
from common.wire.messages import BoundaryKind
from master.disk.keeper import Keeper
from master.disk.recovery import ROLLBACK, ROSTER, Recovery, recover, resumed
from master.disk.snapshots import Snapshots
from master.disk.state import StateDirectory, sealed
from master.parameters import LARGE_PUSHES, Parameters
from master.relay import Address, Mailbox, Relay
from master.roster import Event, Roster, merged
from master.semaphore import FairSemaphore
from master.servicer import Servicer
from master.store.optimizers import use_one_thread
from master.store.policies import policies
from master.store.shard import Reading
from master.store.store import Pieces, Source, Store
from master.synthesis.thread import Auxiliary
from master.tally import Tally
from master.web.history import History
from master.web.pages import pages

log = logging.getLogger("layerwise.master")

# Between two moments of the live page's charts, at first.
HISTORY_SECONDS = 1.0
SHARD_KINDS = ("weights", "gradient", "input", "optimizer")


class Master:
    """One run's parameters, leases and mailboxes."""

    def __init__(self, config: Config, state: StateDirectory) -> None:
        self.state = state
        self.config = resumed(config, state)
        snapshots = Snapshots(state.path / "snapshots")
        saved, recovery = recover(state, snapshots)
        self.counters = Tally.restored(saved)
        self._probe = Probe(state.path)
        self._probed, self._utilization = 0.0, m.Utilization()
        self._starts = saved.get("starts", 0) + 1
        # Ports are used again: a slave must be able to tell a neighbour from another run's slave.
        self._run = saved.get("run") or uuid.uuid4().hex
        self._evaluation = m.Evaluation(**saved["evaluation"]) if "evaluation" in saved else m.Evaluation()
        replicas = self.config.replicas
        cluster = self.config.cluster
        self.roster = Roster(replicas, cluster.heartbeat_seconds, cluster.misses, saved.get("roster"))
        windows = [
            self.config.decoupling.window(k + 1, self.config.layers) for k in range(self.config.layers)
        ]
        self.relay = Relay(windows, replicas, self.config.decoupling.slots)
        self.large_pushes = FairSemaphore(LARGE_PUSHES)
        self.bulk_port = 0
        self._unsaved = False
        fenced = self._recovered(recovery) if recovery else []
        state.note_boot()
        self.store = Store(state, policies(self.config))
        served = self.config.cluster.synthesis == "master"
        self._auxiliary = Auxiliary(self.config, self.store) if served else None
        self.keeper = Keeper(self, snapshots, recovery.damage if recovery else ())
        self._happened(fenced)
        self.save()
        state.log({"event": "started", "starts": self._starts})

    def _recovered(self, recovery: Recovery) -> list[Event]:
        """Everyone is fenced, durably, before anything is put back: a crash in between repeats it all."""
        events = self._rolled_back(recovery.run, recovery.why)
        self.save()
        recovery.put_back(self.state)
        self.state.discard(ROLLBACK)
        recovery.say(self.state)
        return events

    def _rolled_back(self, run: dict[str, Any], why: str) -> list[Event]:
        self._evaluation = m.Evaluation(**run.get("evaluation", {}))
        return self.roster.roll_back(run.get("roster", {}), why, time.monotonic())

    def fence(self, run: dict[str, Any], why: str) -> int:
        """End every lease and go back to what was saved of the run then; how many leases there were."""
        events = self._rolled_back(run, why)
        if self._auxiliary:
            self._auxiliary.begin_anew()
        self._happened(events)
        self.save()
        return len(events)

    def save(self) -> None:
        """Write down who holds what, and what was counted."""
        self.state.write(ROSTER, sealed(self.saved()))

    def saved(self) -> dict[str, Any]:
        """What must survive the master beside the shards: plain values, for JSON."""
        return {
            **self.counters.saved(),
            "roster": self.roster.saved(time.monotonic()),
            "starts": self._starts,
            "run": self._run,
            "evaluation": dataclasses.asdict(self._evaluation),
        }

    def join(self, request: m.JoinRequest) -> m.JoinReply:
        """A lease, durable before it is answered.

        Raises:
            ConfigError: (profile basic) the slave does not say where its neighbours reach it.
        """
        self.keeper.check_joining()
        if self.config.cluster.profile == "basic":
            split_address(request.address)
        reply, events = self.roster.join(request, time.monotonic())
        self._happened(events)
        next_batch = self.store.next_batch(f"{reply.layer}/weights", reply.replica)
        return dataclasses.replace(reply, next_batch=next_batch, run=self._run)

    def heartbeat(self, request: m.HeartbeatRequest) -> m.HeartbeatReply:
        """Keep a lease."""
        events = self.roster.heartbeat(request.incarnation, request.beat, request.telemetry, time.monotonic())
        self._happened(events)
        peers = self.roster.neighbours(request.incarnation, request.peers_version)
        if self.config.decoupling.slots is None:
            return m.HeartbeatReply(self.roster.over, *peers)
        seats = self.roster.seats(time.monotonic())
        # The lower layers are the slower ones, and the upper must not freeze on features that are not ripe.
        stop = min(seat.telemetry.next_batch for seat in seats) >= self.config.run.batches
        return m.HeartbeatReply(self.roster.over, *peers, begin=self.roster.complete, stop=stop)

    def leave(self, request: m.LeaveRequest) -> None:
        """Give a lease back."""
        self._happened(self.roster.leave(request.incarnation, request.telemetry, request.reason))

    def tick(self) -> None:
        """Fail who is silent; and see how busy this machine is, as often as a slave says so of its own."""
        now = time.monotonic()
        self._happened(self.roster.tick(now))
        if now - self._probed >= self.config.cluster.heartbeat_seconds:
            self._probed, self._utilization = now, self._probe()

    def note(self, evaluation: m.Evaluation) -> None:
        """Keep an evaluator's newest result."""
        self._evaluation = evaluation
        self.state.log({"event": "evaluated", **dataclasses.asdict(evaluation)})
        self.save()

    def admit(self, header: pushes.Header | None) -> Table | None:
        """Whether a push may come in: its shard's registered table, or None for one that is to be created.

        Raises:
            MalformedError: no header, or no shard that a slave of that layer may push to.
            FencedError: the sender's lease has passed to another.
            NotFoundError: there is no such shard.
        """
        if header is None:
            raise MalformedError("data came where a header was expected")
        layer, _, kind = header.shard.partition("/")
        seat = self.roster.seat(header.incarnation)
        if kind not in SHARD_KINDS or layer != str(seat.layer):
            raise MalformedError(f'layer {seat.layer} cannot push to "{header.shard}"')
        if header.replica != seat.replica:
            raise MalformedError(f"replica {seat.replica} cannot push as replica {header.replica}")
        if header.operation is Operation.CREATE:
            return None
        if header.operation is Operation.VALUE or header.sequence < 1:
            raise MalformedError(f"{header.operation.name} with sequence {header.sequence} is no push")
        return self.store.table(header)

    def push(self, header: pushes.Header, pieces: Pieces) -> pushes.PushReply:
        """Create a shard or apply an update to one, if the sender still holds its lease."""
        if header.operation is not Operation.CREATE:
            return self.land(header, lambda _: nullcontext(pieces))
        self.roster.seat(header.incarnation)
        return self.store.create(header, pieces, lambda: self.roster.seat(header.incarnation))

    def land(self, header: pushes.Header, source: Source) -> pushes.PushReply:
        """Apply an update that is received where its outcome will be, if the sender still holds its lease."""
        seat = self.roster.seat(header.incarnation)
        reply = self.store.land(header, source, lambda: self.roster.seat(header.incarnation))
        # Of buffers alone, as of a slave's moments, the value comes: that is never stale.
        self.counters.pushed(seat.layer, seat.replica, reply, ages=header.table.parameters_nbytes > 0)
        return reply

    def read(self, request: pushes.PullRequest) -> Reading:
        """Hold a version of a shard for a reader."""
        seat = self.roster.seat(request.incarnation) if request.incarnation else None
        reading = self.store.read(request.shard, request.incarnation)
        self.counters.pulled((seat.layer, seat.replica) if seat is not None else None)
        return reading

    async def synthesize(self, message: m.SynthesisMessage) -> m.SynthesisMessage | None:
        """Take what a slave asks or tells the M of its layer; its answer, if it is a question.

        Raises:
            MalformedError: it is no such thing, or M runs in the slaves.
            FencedError: the sender's lease has passed to another.
        """
        seat = self.roster.seat(message.incarnation)
        if self._auxiliary is None:
            raise MalformedError('M runs in the slaves here: cluster.synthesis = "slave"')
        return await self._auxiliary.answer(seat.layer, message)

    async def settle(self) -> None:
        """Bring what the master itself has learned into the shards, and end its thread."""
        if self._auxiliary:
            await self._auxiliary.settle()
            self._auxiliary.close()

    def address(self, hello: m.BoundaryMessage) -> Address:
        """Whose stream opens, by its first message.

        Raises:
            MalformedError: the first message does not say.
            FencedError: the sender's lease has passed to another.
        """
        if hello.kind not in (BoundaryKind.ACTIVATIONS, BoundaryKind.GRADIENTS):
            raise MalformedError(f"a stream begins with ACTIVATIONS or GRADIENTS, not {hello.kind.name}")
        seat = self.roster.seat(hello.incarnation)
        return Address(seat.layer, seat.replica, hello.kind)

    def open(self, address: Address) -> Mailbox:
        """A mailbox for a stream; the layer below is told when the stream of activations opens."""
        mailbox = self.relay.open(address)
        if address.stream is BoundaryKind.ACTIVATIONS:
            self.relay.announce(address)
        return mailbox

    def status(self) -> m.StatusReply:
        """How the run goes."""
        now = time.monotonic()
        seats = self.roster.seats(now)
        total = seats[0].telemetry
        for seat in seats[1:]:
            total = merged(total, seat.telemetry)
        counters, layers = self.counters.reported(), self.counters.by_layer()
        state = "done" if self.roster.over else "training" if self.roster.complete else "waiting"
        return m.StatusReply(
            name=self.config.run.name,
            state=state,
            batches=min(
                self.config.run.batches,
                *(max(s.telemetry.next_batch, self.store.next_batch(f"{s.layer}/weights")) for s in seats),
            ),
            of_batches=self.config.run.batches,
            waiting_slaves=self.roster.waiting(),
            training_seconds=self.roster.training_seconds(now),
            starts=self._starts,
            seats=seats,
            versions=self.store.versions(),
            delays=total.delays,
            waiting_fraction=_waiting_fractions(seats),
            lost_batches=total.lost_batches,
            counters=counters,
            evaluation=self._evaluation,
            layers=layers,
            utilization=self._utilization,
            snapshot=self.keeper.newest,
            snapshot_trouble=self.keeper.trouble,
        )

    def count(self, error: LayerwiseError) -> None:
        """Count a refused message."""
        if isinstance(error, FencedError):
            self.counters.add(fenced=1)
        elif isinstance(error, MalformedError | TooLargeError):
            self.counters.add(malformed=1)

    def _happened(self, events: list[Event]) -> None:
        for event in events:
            self.state.log({"event": event.what, **{k: v for k, v in vars(event).items() if k != "what"}})
            self.counters.failed_leases += event.what == "failed"
            if event.what in ("left", "failed", "fenced"):
                self.relay.vacate(event.layer, event.replica)
                self.store.forget(event.incarnation)
        # What could not be written (a full disk) is owed: nothing is answered before it is.
        self._unsaved = self._unsaved or bool(events)
        if self._unsaved:
            self.save()
            self._unsaved = False


def _waiting_fractions(seats: list[m.Seat]) -> dict[int, float]:
    """Of each layer's time in steps, the part in which a step stood still."""
    stepping: Counter[int] = Counter()
    waiting: Counter[int] = Counter()
    for seat in seats:
        stepping[seat.layer] += seat.telemetry.step_seconds  # type: ignore[assignment]
        waiting[seat.layer] += seat.telemetry.waiting_seconds  # type: ignore[assignment]
    return {k: waiting[k] / stepping[k] if stepping[k] else 0.0 for k in sorted(stepping)}


async def _serve(config: Config, listen: str, bulk_port: int, web: str, state: StateDirectory) -> int:
    master = Master(config, state)
    server = Server(master.count)
    servicer = Servicer(master)
    servicer.register(server)
    bulk = BulkServer(master.count)
    Parameters(master).register(bulk)
    servicer.register_open(bulk, asyncio.get_running_loop())
    history = History(HISTORY_SECONDS)
    site = Site(pages(master, history))
    address, shown = await server.start(listen), await site.start(web, "--web")
    # Before the loop takes its first call: slaves are told of it.
    master.bulk_port = bulk.start(split_address(listen)[0], bulk_port)
    state.write("web", shown)
    state.write("address", address)
    print(f"master of {config.run.name}: listening on {address}, state in {state.path}", flush=True)
    print(f"live page: http://{shown}/", flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for which in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(which, stop.set)
    ticking = asyncio.ensure_future(_tick(master, history, master.roster.tick_seconds))
    keeping = asyncio.ensure_future(master.keeper.run(config.cluster.snapshot_seconds))
    await stop.wait()
    ticking.cancel()
    keeping.cancel()
    await site.stop()
    await asyncio.to_thread(bulk.stop)
    await server.stop(0.5)
    await master.settle()
    # Before the machine is perhaps switched off: what is mapped alone would then not count.
    await master.keeper.take_if_changed()
    master.keeper.close()
    master.save()
    state.log({"event": "stopped"})
    return INTERRUPTED


async def _tick(master: Master, history: History, seconds: float) -> None:
    while True:
        try:
            master.tick()
            if history.due(now := time.time()):
                history.note(master.status(), now)
        except RunFailedError as error:
            log.error("%s; trying again", error)
        await asyncio.sleep(seconds)


def serve(config: Config, listen: str, bulk_port: int, web: str, state_dir: Path) -> int:
    """Run a master until it is interrupted; the exit code.

    Args:
        config: of the run, resolved.
        listen: HOST:PORT for gRPC.
        bulk_port: for shards, on the same host; 0 takes a free one.
        web: HOST:PORT for what it shows.
        state_dir: where everything is kept.

    Raises:
        RefusedError: the port or the state directory is taken, or holds another run.
    """
    keep_freed_memory()
    end_with_parent()
    # It may share a machine with those that compute.
    give_way()
    if config.downpour.push == "gradient" or config.cluster.synthesis == "master":
        use_one_thread()
    state = StateDirectory(state_dir)
    try:
        return asyncio.run(_serve(config, listen, bulk_port, web, state))
    finally:
        state.close()
