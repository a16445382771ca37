"""Master process: composition over a state directory, ports, and life until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from common.config.sections import Config
from common.data.replicas import most_seats, most_streams
from common.errors import LayerwiseError, MalformedError, RunFailedError
from common.lifecycle import (
    INTERRUPTED,
    cpu_seconds,
    end_with_parent,
    give_way,
    heed_stops,
    keep_freed_memory,
    peak_rss_bytes,
)
from common.net import control
from common.net.addresses import is_loopback, split_address
from common.net.data import server as data
from common.net.data.places import Bounds
from common.net.identity import Identity
from common.net.tokens import READER_TOKEN, forget_master, note_master
from common.observe.health import Pulse, silence_limit, snapshot_limit
from common.observe.utilization import Probe
from common.observe.web import SECURE_PAGES, Site, pages_identity
from common.supervision import Rounds, start_task
from common.text import answer
from common.wire.messages import StatusReply
from common.wire.methods import EXCHANGE
from common.wire.use import Utilization
from master.access import Access
from master.attendance import Attendance
from master.disk.credentials import load_keyring, load_reader, load_tokens
from master.disk.recovery import ROLLBACK, ROSTER, recover, resume_config
from master.disk.scrub import SCRUB_SECONDS, Scrub
from master.disk.shelves import DiskThread, OwnShelves
from master.disk.snapshots import Snapshots
from master.disk.state import StateDirectory, seal
from master.effects import Effect
from master.lease import LeaseEvent
from master.ledger import Ledger
from master.parameters import ParameterService
from master.parted import make_scheduler, repair_periodically
from master.relay import Relay
from master.restoration import fence_saved
from master.run import Run
from master.servicers.keeper import KeeperServicer
from master.servicers.parameters import ParametersServicer
from master.servicers.roster import RosterServicer
from master.servicers.stores import StoresServicer
from master.servicers.synthesis import SynthesisServicer
from master.store.optimizers import use_one_thread
from master.store.policies import policies
from master.store.store import Store
from master.synthesis.thread import SynthesisThread
from master.web.history import History
from master.web.pages import pages
from master.web.view import View

# First interval between two points of the live page's charts.
HISTORY_SECONDS = 1.0


class Master:
    """Parts of a master: state machine, shards, relay, snapshots, served synthesis.

    Raises:
        RefusedError: the directory holds a run of another configuration.
        RunFailedError: the directory is damaged beyond repair.
    """

    def __init__(self, config: Config, state: StateDirectory) -> None:
        self.state = state
        config = resume_config(config, state)
        snapshots = Snapshots(state.path / "snapshots", state.files)
        saved, recovery = recover(state, snapshots, keeps_shards=not config.cluster.stores)
        effects: list[Effect] = []
        if recovery:
            # Every lease ends, durably, before a shard is put back: a crash in between repeats the whole.
            with _naming_roster(state):
                saved, effects = fence_saved(config, saved, recovery.run, recovery.reason, time.monotonic())
            state.write_in_room(ROSTER, seal(saved))
            recovery.put_back(state)
            if not config.cluster.stores:
                state.discard(ROLLBACK)
            recovery.report(state)
        state.note_boot()
        self.store = Store(state, policies(config))
        with _naming_roster(state):
            self.run = Run(config, self.store, saved, uuid.uuid4().hex, load_keyring(state))
        windows = [config.decoupling.window(k, config.layers) for k in range(1, config.layers + 1)]
        roster, slots = self.run.roster, config.decoupling.slots
        self.relay = Relay(
            self.run.identity,
            lambda: roster.seating.replicas,
            windows,
            slots,
            roster.seat,
            self.run.tally.add,
            broadcasts=config.decoupling.broadcasts,
        )
        self.parameters = ParameterService(self.run.roster, self.store, self.run.tally)
        served = config.cluster.served
        self.synthesis = SynthesisThread(config, self.store) if served else None
        stores, beat = self.run.stores, config.cluster.heartbeat_seconds
        self.attendance = Attendance(stores, beat) if stores else None
        publish = self.attendance.publish if self.attendance else lambda *_: None
        self.ledger = Ledger(self.run, state, self._end_lease, self._restart_synthesis, publish)
        damage = recovery.damage if recovery else ()
        own = OwnShelves(snapshots, self.store, state, DiskThread(state.path))
        self.scheduler = make_scheduler(self.run, self.attendance, own, self.ledger, damage)
        self.scrub = Scrub(state)
        self._probe = Probe(state.path)
        self._probed_at, self._utilization = 0.0, Utilization()
        self._ticked_at = time.monotonic()
        self.ledger.begin(effects)
        state.log({"event": "started", "starts": self.run.starts})

    def _end_lease(self, event: LeaseEvent) -> None:
        self.relay.vacate(event.layer, event.replica)
        self.store.forget(event.incarnation)

    def _restart_synthesis(self) -> None:
        if self.synthesis:
            self.synthesis.restart()

    async def tick(self) -> None:
        """Fail silent slaves, and measure the machine's load once a heartbeat.

        Raises:
            NoRoomError: the run's values cannot be written.
        """
        await self.ledger.tick()
        self._ticked_at = now = time.monotonic()
        if now - self._probed_at >= self.run.config.cluster.heartbeat_seconds:
            self._probed_at, self._utilization = now, self._probe()

    def status(self) -> StatusReply:
        """State of the run, its newest snapshot, and the load of process and machine."""
        reply = self.run.status(time.monotonic())
        return dataclasses.replace(
            reply,
            counters=dataclasses.replace(
                reply.counters, cpu_seconds=cpu_seconds(), peak_rss_bytes=peak_rss_bytes()
            ),
            utilization=self._utilization,
            snapshot=self.scheduler.newest,
            snapshot_trouble=self.scheduler.trouble,
        )

    def pulses(self) -> list[Pulse]:
        """Signs of life: the last tick, and the last time at which no snapshot was missing."""
        now, cluster = time.monotonic(), self.run.config.cluster
        silence = silence_limit(cluster.heartbeat_seconds, cluster.misses)
        return [
            Pulse("tick", now - self._ticked_at, silence),
            Pulse("snapshot", now - self.scheduler.current_at, snapshot_limit(cluster.snapshot_seconds)),
        ]

    def view(self, *, secure: bool = False) -> View:
        """Sources of the pages; `secure`: the control port speaks TLS."""
        return View(
            config=self.run.config,
            status=self.status,
            shown=self.run.shown,
            events=lambda: list(self.state.recent),
            address=lambda: self.state.read("address") or "localhost:0",
            mailbox_depth=self.relay.depth,
            seat=(self.run.stores or self.run.tally).seat,
            tally=self.run.tally,
            journal=self.state.journal,
            snapshots=self.scheduler.seconds,
            pulses=self.pulses,
            secure=secure,
        )

    async def close(self) -> None:
        """Push what served synthesis has learned, take a last snapshot, and save.

        The machine may be switched off next: what only mapped memory holds would not count.
        """
        self.scrub.stop()
        if self.synthesis:
            await self.synthesis.settle()
            self.synthesis.close()
        if self.run.stores is None:
            await self.scheduler.take_if_changed()
        self.scheduler.close()
        await self.ledger.save()
        self.state.log({"event": "stopped"})


@contextlib.contextmanager
def _naming_roster(state: StateDirectory) -> Iterator[None]:
    """Context in which a saved number out of range is an error of the file.

    Raises:
        RunFailedError: a number is out of range.
    """
    try:
        yield
    except MalformedError as error:
        raise RunFailedError(f"{state.path / ROSTER}: {error}; restore the file from a copy") from None


class Ports:
    """Control port and data port of a master; made on the event loop of control and boundary.

    Args:
        master: served here.
        join_token: file of the join token; None: in the state directory.
        identity: certificates; None: in the clear.
        reader: token of readers, for the pages of slaves and stores.

    Raises:
        ConfigError: the file of the join token cannot be used.
    """

    def __init__(
        self,
        master: Master,
        join_token: Path | None = None,
        identity: Identity | None = None,
        reader: str = "",
    ) -> None:
        run, tally = master.run, master.run.tally
        self._state, self._port = master.state.path, 0
        name = run.config.run.name if identity else None
        access = Access(run.roster, load_tokens(master.state, join_token), name)
        seats, streams = most_seats(run.config), most_streams(run.config)
        # Heartbeats, questions and a Join apart.
        places = Bounds.for_leases(seats, 3)
        self.control = control.ControlServer(tally.count_error, access.admit, identity, places)
        # A pusher, a fetcher and a stream for each neighbour, and as many before the last have ended.
        bounds = Bounds.for_leases(seats, 2 + streams, 8 + 2 * streams)
        tls = identity.serve() if identity else None
        self.data = data.DataServer(tally.count_error, bounds, admit=access.admit, tls=tls)
        self._roster = RosterServicer(run, master.ledger, master.status, reader, master.attendance)
        self._roster.register(self.control)
        KeeperServicer(master.scheduler).register(self.control)
        SynthesisServicer(run.roster, master.synthesis, tally).register(self.control)
        self._stores = StoresServicer(run, master.ledger, master.attendance, reader)
        self._stores.register(self.control)
        self.parameters = ParametersServicer(master.parameters, tally)
        if run.stores is None:
            self.parameters.register(self.data)
        self.data.add_open(EXCHANGE, master.relay.exchange, asyncio.get_running_loop())

    async def open(self, listen: str, data_port: int) -> tuple[str, int]:
        """Listen; returns the control address and the data port (0 takes a free port).

        Raises:
            RefusedError: a port cannot be listened on.
        """
        address = await self.control.start(listen)
        # No call can come in between: the event loop has not been let go since the control port opened.
        self._roster.data_port = self.data.start(split_address(listen)[0], data_port)
        self._stores.data_port = self._roster.data_port
        self._port = split_address(address)[1]
        note_master(self._port, self._state)
        return address, self._roster.data_port

    async def close(self, grace: float) -> None:
        """End data calls at once, and control calls after `grace` seconds."""
        forget_master(self._port, self._state)
        await asyncio.to_thread(self.data.stop)
        await self.control.stop(grace)


async def run_until_signal(
    config: Config,
    listen: str,
    data_port: int,
    web: str,
    state: StateDirectory,
    hosts: frozenset[str] = frozenset(),
    join_token: Path | None = None,
    identity: Identity | None = None,
    reader_token: Path | None = None,
    *,
    insecure_pages: bool = False,
) -> int:
    """Run a master until SIGINT or SIGTERM; returns the exit code. Arguments and errors are as of `serve`."""
    master, loop, stop = Master(config, state), asyncio.get_running_loop(), asyncio.Event()
    reader = load_reader(state, reader_token)
    history, ports = History(HISTORY_SECONDS, config.metrics), Ports(master, join_token, identity, reader)
    secure = pages_identity(identity, web, insecure_pages)
    site = Site(
        pages(master.view(secure=identity is not None), history), hosts, secure, config.run.name, reader
    )
    try:
        address, _ = await ports.open(listen, data_port)
        web_address = await site.start(web, "--web")
    except LayerwiseError:
        # gRPC complains of a server that is not stopped.
        await ports.close(0)
        raise
    noted = {"web": (SECURE_PAGES if secure else "") + web_address, "address": address}
    for name, listening in noted.items():
        await loop.run_in_executor(state.writer, state.write, name, listening)
    answer(f"master of {config.run.name}: listening on {address}, state in {state.path}")
    answer(f"live page: {'https' if secure else 'http'}://{web_address}/")
    if not (secure or is_loopback(split_address(web)[0])):
        answer(f"password of the live page, for any user: in {reader_token or state.path / READER_TOKEN}")
    heed_stops(loop, stop.set)
    tasks = [
        start_task(_tick(master, history, master.run.roster.tick_seconds), "tick"),
        start_task(master.scheduler.take_periodically(config.cluster.snapshot_seconds), "snapshots"),
        start_task(_scrub(master), "scrub"),
    ]
    if stores := master.run.stores:
        beat = config.cluster.heartbeat_seconds
        tasks.append(start_task(repair_periodically(master.scheduler, stores, beat), "repair"))
    await stop.wait()
    for task in tasks:
        task.cancel()
    await site.stop()
    await ports.close(0.5)
    await master.close()
    return INTERRUPTED


async def _tick(master: Master, history: History, seconds: float) -> None:
    rounds = Rounds("the master's tick")
    while True:
        with rounds.attempt():
            await master.tick()
            if history.due(now := time.monotonic()):
                history.add(master.status(), now)
        await asyncio.sleep(seconds)


async def _scrub(master: Master) -> None:
    rounds = Rounds("the scrub")
    while True:
        with rounds.attempt():
            if damage := await asyncio.to_thread(master.scrub.run):
                await master.scheduler.repair(damage)
        await asyncio.sleep(SCRUB_SECONDS)


def serve(
    config: Config,
    listen: str,
    data_port: int,
    web: str,
    state_dir: Path,
    hosts: frozenset[str] = frozenset(),
    join_token: Path | None = None,
    identity: Identity | None = None,
    reader_token: Path | None = None,
    *,
    insecure_pages: bool = False,
) -> int:
    """Run a master until interrupted; returns the exit code.

    Args:
        config: resolved configuration of the run.
        listen: HOST:PORT of the control port.
        data_port: port for shards and boundary streams on the same host; 0 takes a free one.
        web: HOST:PORT of the pages.
        state_dir: directory for everything that outlives the process.
        hosts: further names under which the pages are answered.
        join_token: file of the join token, made if missing; None: in the state directory.
        identity: certificates; None: in the clear.
        reader_token: file of the reader's token, made if missing; None: in the state directory.
        insecure_pages: show the pages beyond this machine in the clear, although there are certificates.

    Raises:
        ConfigError: an address or a token's file is of no use; NoRoomError: the state cannot be written.
        RefusedError: a port or the state directory is taken, or the directory holds another run.
    """
    keep_freed_memory()
    end_with_parent()
    # Slaves that compute may share the machine.
    give_way()
    if config.downpour.accrues or config.cluster.served:
        use_one_thread()
    state = StateDirectory(state_dir)
    try:
        shown = hosts, join_token, identity, reader_token
        return asyncio.run(
            run_until_signal(config, listen, data_port, web, state, *shown, insecure_pages=insecure_pages)
        )
    finally:
        state.close()
