"""The life of a store: find the master, open the directory, serve shards, and report, until a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from dataclasses import replace

from common.config import files
from common.config.sections import Config
from common.data.replicas import most_seats
from common.errors import AbsentError, LayerwiseError, RefusedError, UnprovenError, UnreachableError
from common.lifecycle import INTERRUPTED, end_with_parent, give_way, heed_stops, keep_freed_memory
from common.net import control
from common.net.access import Role
from common.net.addresses import choose_addresses, no_master, reachable_metrics, split_address
from common.net.backoff import Backoff
from common.net.data.places import Bounds
from common.net.data.server import DataServer
from common.net.identity import find_identity
from common.net.tasks import run_until_one_ends
from common.net.tokens import find_joiner, read_token
from common.observe.health import silence_limit
from common.observe.utilization import Probe
from common.observe.web import SECURE_PAGES, Site, pages_identity
from common.supervision import Rounds
from common.text import answer
from common.wire.messages import DescribeRequest
from common.wire.methods import ATTEND, DESCRIBE
from common.wire.stores import AttendReply, AttendRequest, StoreTask, TaskResult
from master.access import Access
from master.disk.scrub import SCRUB_SECONDS, Scrub
from master.disk.state import StateDirectory
from master.servicers.parameters import ParametersServicer
from master.store.optimizers import use_one_thread
from master.storing.options import Options
from master.storing.page import Exposition
from master.storing.shelf import Shelf

log = logging.getLogger("layerwise.store")

# Bound of a report's call, beside the heartbeat for which the master may hold it.
REPORT_SECONDS = 5.0
# A pusher and a fetcher for each lease, and as many before the last have ended.
CONNECTIONS_OF_A_LEASE = 8


class StoreProcess:
    """A store of a run.

    Args:
        options: of the command line.
        state: the store's directory.
    """

    def __init__(self, options: Options, state: StateDirectory) -> None:
        self._options = options
        self._state = state
        self._identity = find_identity(options.tls)
        self._channel = control.async_channel(options.master, self._identity)
        self._session = uuid.uuid4().hex
        self._order = 0
        self._result = TaskResult()
        self._told = False
        self._doing: asyncio.Future[None] | None = None
        self._shelf: Shelf | None = None
        self._exposition = Exposition(state)
        secure = pages_identity(self._identity, options.metrics, options.insecure)
        self._scheme = SECURE_PAGES if secure else ""
        pages = {"/metrics": self._exposition.metrics, "/healthz": self._exposition.health}
        self._site = Site(pages, options.hosts, secure)
        self._data: DataServer | None = None

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            UnreachableError: no master has answered for `wait` seconds.
            LayerwiseError: the directory cannot be used, or the master refuses this store.
        """
        pages = await self._site.start(self._options.metrics, "--metrics")
        metrics = self._scheme + reachable_metrics(pages, self._options.master)
        try:
            await self._serve(await self._fetch_config(), metrics)
        finally:
            await self._site.stop()

    async def _serve(self, config: Config, metrics: str) -> None:
        """Serve a run; `metrics` is the address of the pages for the master's list."""
        if self._identity is not None:
            self._identity.check_own_role(Role.STORE, config.run.name)
            # Until now pages are for readers of any run: there is none to tell of.
            self._site.run = config.run.name
        if config.downpour.accrues:
            use_one_thread()
        self._shelf = self._exposition.shelf = shelf = Shelf(config, self._state)
        cluster = config.cluster
        self._exposition.profile = cluster.profile
        self._exposition.silence_limit = REPORT_SECONDS + silence_limit(
            cluster.heartbeat_seconds, cluster.misses
        )
        listen, address = choose_addresses(
            self._options.listen,
            self._options.advertise,
            self._options.master,
            insecure=self._options.insecure or self._identity is not None,
        )
        access = Access(shelf.leases, None, config.run.name if self._identity else None)
        tls = self._identity.serve() if self._identity else None
        bounds = Bounds.for_leases(most_seats(config), CONNECTIONS_OF_A_LEASE // 4, CONNECTIONS_OF_A_LEASE)
        self._data = DataServer(shelf.tally.count_error, bounds, admit=access.admit, tls=tls)
        ParametersServicer(shelf.parameters, shelf.tally).register(self._data)
        own_port = self._data.start(*split_address(listen), option="--listen")
        host, port = split_address(address)
        address = f"{host}:{port or own_port}"
        answer(f"store of {config.run.name}: listening on {address}, shards in {self._state.path}")
        scrub = Scrub(self._state)
        report = AttendRequest(address=address, metrics=metrics, host=socket.gethostname(), pid=os.getpid())
        reports = self._report(shelf, report, cluster.heartbeat_seconds)
        try:
            # The first error of either ends the store.
            await run_until_one_ends(self._look_after(shelf, scrub), reports)
        finally:
            scrub.stop()

    async def close(self) -> None:
        """End every call and task, and bring everything to the disk."""
        if self._data is not None:
            await asyncio.to_thread(self._data.stop)
        if self._doing is not None:
            await asyncio.wait({self._doing})
        if self._shelf is not None:
            await asyncio.to_thread(self._shelf.close)
        await self._channel.close()

    async def _fetch_config(self) -> Config:
        """Wait for a master, and fetch the run's configuration."""
        backoff, announced = self._backoff(0.2), False
        while True:
            try:
                reply = await control.async_call(self._channel, DESCRIBE, DescribeRequest(), 1.0)
            except UnreachableError as error:
                delay = backoff.delay_after(self._no_master(error))
                if not announced:
                    log.info("no master at %s yet; waiting for up to %g s", *self._waiting())
                    announced = True
                await asyncio.sleep(delay)
                continue
            config = files.parse(reply.config, f"the configuration from {self._options.master}")
            if not config.cluster.stores:
                raise RefusedError(
                    f"--master {self._options.master}: the master keeps this run's shards; start the master "
                    "with cluster.stores, the number of stores"
                )
            return config

    async def _report(self, shelf: Shelf, places: AttendRequest, heartbeat_seconds: float) -> None:
        """Report to the master, and obey, until cancelled; `places` is what stays the same."""
        backoff = self._backoff(0.1)
        probe = Probe(self._state.path)
        while True:
            self._exposition.used = used = probe()
            request = replace(
                shelf.report(),
                session=self._session,
                host=places.host,
                pid=places.pid,
                address=places.address,
                metrics=places.metrics,
                order=self._order,
                utilization=used,
                result=self._result,
            )
            try:
                reply = await self._attend(request, heartbeat_seconds)
                await asyncio.to_thread(self._obey, shelf, reply)
                self._begin(shelf, reply.order.task)
            except UnreachableError as error:
                self._exposition.note_report()
                # Later the master would take this store for late.
                await asyncio.sleep(min(backoff.delay_after(self._no_master(error)), heartbeat_seconds))
            else:
                backoff.reset()
                self._exposition.note_report()
                self._site.reader = reply.reader

    async def _attend(self, request: AttendRequest, heartbeat_seconds: float) -> AttendReply:
        shown = find_joiner(self._options.master, self._options.join_token)
        try:
            return await control.async_call(
                self._channel, ATTEND, request, REPORT_SECONDS + heartbeat_seconds, shown
            )
        except UnprovenError as error:
            # The token of a master that has just started is found a moment later.
            if shown == find_joiner(self._options.master, self._options.join_token):
                raise
            raise UnreachableError(str(error)) from None

    def _obey(self, shelf: Shelf, reply: AttendReply) -> None:
        """Make the master's order true, and note that it is."""
        if reply.order.number == self._order:
            return
        if not self._told:
            self._told = True
            log.info("store %d of the run", reply.number)
            if shelf.trouble:
                log.error("%s; waiting for the master to put the run back to a snapshot", shelf.trouble)
        shelf.note_run(reply.run)
        if shelf.obey(reply.order):
            self._order = reply.order.number

    def _begin(self, shelf: Shelf, task: StoreTask) -> None:
        """Begin a new task beside the reports, unless an earlier one is still under way."""
        if self._doing is not None and self._doing.done():
            # An error is a defect, and ends the store.
            self._doing.result()
            self._doing = None
        if task.number not in (0, self._result.number) and self._doing is None:
            self._doing = asyncio.ensure_future(self._do(shelf, task))

    async def _do(self, shelf: Shelf, task: StoreTask) -> None:
        self._result = await asyncio.to_thread(shelf.perform, task)

    async def _look_after(self, shelf: Shelf, scrub: Scrub) -> None:
        """Scrub the shards and save the counts, now and then."""
        rounds = Rounds("looking after the shards")
        while True:
            await asyncio.sleep(SCRUB_SECONDS)
            with rounds.attempt():
                await asyncio.to_thread(shelf.save)
                if (damage := await asyncio.to_thread(scrub.run)) and not shelf.trouble:
                    shelf.trouble = damage
                    log.error("%s", damage)

    def _waiting(self) -> tuple[str, float]:
        return self._options.master, self._options.wait

    def _no_master(self, error: LayerwiseError) -> LayerwiseError:
        """Return the error for a master that is away for good; another error stays."""
        return no_master(*self._waiting()) if isinstance(error, AbsentError) else error

    def _backoff(self, first: float) -> Backoff:
        return Backoff(time.monotonic, random.random, first=first, longest=1.0, patience=self._options.wait)


async def run_until_signal(options: Options, state: StateDirectory) -> int:
    """Run a store until SIGINT or SIGTERM, and return the exit code."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    heed_stops(loop, stop.set)
    store = StoreProcess(options, state)
    try:
        await run_until_one_ends(store.run(), stop.wait())
    finally:
        await store.close()
    log.info("interrupted")
    return INTERRUPTED


def serve(options: Options) -> int:
    """Run a store, and return the exit code.

    Raises:
        ConfigError: the file of the join token is missing, or holds none.
        LayerwiseError: as `StoreProcess.run`.
    """
    if options.join_token is not None:
        read_token(options.join_token, "--join-token-file")
    keep_freed_memory()
    end_with_parent()
    # Slaves that compute may share the machine.
    give_way()
    state = StateDirectory(options.state_dir)
    try:
        return asyncio.run(run_until_signal(options, state))
    finally:
        state.close()
