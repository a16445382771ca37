"""The life of a slave: find the master, join, train a layer to the run's end, and join again if fenced."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.config import files
from common.config.sections import Config
from common.config.user_code import check_sent_files
from common.credentials import Credentials
from common.data.replicas import most_streams
from common.errors import (
    AbsentError,
    ConfigError,
    FencedError,
    LayerwiseError,
    UnprovenError,
    UnreachableError,
)
from common.lifecycle import INTERRUPTED, Interrupt, cpu_seconds, end_with_parent, keep_freed_memory
from common.net import control
from common.net.access import Role
from common.net.addresses import no_master, reachable_metrics
from common.net.backoff import Backoff
from common.net.identity import find_identity
from common.net.tokens import find_joiner
from common.observe.health import silence_limit
from common.observe.web import SECURE_PAGES, Site, pages_identity, serve_on_thread
from common.supervision import SupervisedThread
from common.wire.messages import DescribeRequest, Holdings, JoinReply, JoinRequest
from common.wire.methods import DESCRIBE, JOIN
from slave.network.meter import Exposition
from slave.network.options import Options
from slave.network.way_back import WayBack

if TYPE_CHECKING:
    from slave.network.ahead import Ahead
    from slave.network.endpoint import Endpoint
    from slave.network.prepared import Prepared

log = logging.getLogger("layerwise.slave")

# Pauses between leases that end before a batch, doubling from the first to the longest.
REJOIN_SECONDS, LONGEST_REJOIN_SECONDS = 0.5, 15.0
WAITING = "every layer has a slave; waiting to replace one"
# Between two looks for an interrupt.
LOOK_SECONDS = 0.2


class Stopped(Exception):  # noqa: N818 - no error: the slave was asked to stop
    """Signal of an interrupt to the training loop; not an error."""


@dataclass(frozen=True)
class Released:
    """End of a lease that the master wanted back: other replicas follow."""

    def delay(self, rejoin: Backoff) -> float:
        """Return the seconds until the next lease."""
        rejoin.reset()
        return 0.0


@dataclass(frozen=True)
class Lost:
    """End of a lease after which the slave joins again.

    Attributes:
        error: reason of the end.
        trained: a batch was trained on under the lease.
    """

    error: LayerwiseError
    trained: bool

    def delay(self, rejoin: Backoff) -> float:
        """Return the seconds until the next lease: none after training, else growing ones.

        Raises:
            LayerwiseError: the error, once leases have ended before a batch for longer than the patience.
        """
        if self.trained:
            rejoin.reset()
            return 0.0
        if isinstance(self.error, FencedError):
            return rejoin.next_delay()
        return rejoin.delay_after(self.error)


class Slave:
    """Slave process: trains under successive leases.

    Raises:
        ConfigError: an option names a file or folder that cannot be used.
    """

    def __init__(self, options: Options) -> None:
        options.check_places()
        self._options = options
        self._name = uuid.uuid4().hex[:12]
        # Shows a Join that is sent again to be this process' own.
        self._key = secrets.token_hex(16)
        self._identity = find_identity(options.tls)
        self._channel = control.channel(options.master, self._identity)
        # An interrupt reaches the training loop through the inbox, and all further waits through the event.
        self._stop = threading.Event()
        self._cpu_before = 0.0
        self._speed = 0.0
        self._ahead: Ahead | None = None
        self._wake: Callable[[object], None] = lambda _: None
        self._exposition = Exposition()
        self._secure = pages_identity(self._identity, options.metrics, options.insecure)
        pages = {"/metrics": self._exposition.metrics, "/healthz": self._exposition.health}
        self._site = Site(pages, options.hosts, self._secure)

    def run(self) -> int:
        """Train until the run is over, and return the exit code.

        Raises:
            UnreachableError: no master has answered for `wait` seconds.
            LayerwiseError: the run's configuration cannot be used here, or the master refuses this slave.
        """
        options = self._options
        with (
            serve_on_thread(self._site, options.metrics, "--metrics") as listening,
            Interrupt(self._on_interrupt),
        ):
            scheme = SECURE_PAGES if self._secure else ""
            self._metrics_address = scheme + reachable_metrics(listening, options.master)
            try:
                # Torch takes seconds to import: ask the master meanwhile.
                preload = SupervisedThread(_import_torch, "torch")
                preload.start()
                config = self._fetch_config()
                if config is None:
                    return 0
                while preload.is_alive():
                    preload.join(LOOK_SECONDS)
                    self._look()
                return self._train(config)
            except Stopped:
                log.info("interrupted")
                return INTERRUPTED
            finally:
                self._channel.close()

    def _on_interrupt(self) -> None:
        self._stop.set()
        self._wake(Stopped())

    def _fetch_config(self) -> Config | None:
        """Wait for a master and fetch the run's configuration; None if the run is over."""
        backoff, announced = self._backoff(0.2, 0.2), False
        while True:
            try:
                reply = control.call_watching(self._channel, DESCRIBE, DescribeRequest(), 1.0, self._look)
            except UnreachableError:
                delay = backoff.delay_after(self._no_master())
                if not announced:
                    log.info(
                        "no master at %s yet; waiting for up to %g s",
                        self._options.master,
                        self._options.wait,
                    )
                    announced = True
                self._pause(delay)
                continue
            if reply.over:
                log.info("the run is over")
                return None
            return self._checked(files.parse(reply.config, f"the configuration from {self._options.master}"))

    def _checked(self, config: Config) -> Config:
        """Return a master's configuration, if this user has the files and the certificate for the run.

        Raises:
            ConfigError: a file would run from a path that the master names, or the certificate is not for a
                slave of the run.
        """
        options = self._options
        if self._identity is not None:
            self._identity.check_own_role(Role.SLAVE, config.run.name)
            # Until now pages are for readers of any run: there is none to tell of.
            self._site.run = config.run.name
        own = files.load(options.own_config).user_functions if options.own_config else {}
        check_sent_files(config.user_functions, options.code, own)
        return config

    def _no_master(self) -> UnreachableError:
        return no_master(self._options.master, self._options.wait)

    def _backoff(self, first: float, longest: float) -> Backoff:
        return Backoff(
            time.monotonic, random.random, first=first, longest=longest, patience=self._options.wait
        )

    def _train(self, config: Config) -> int:
        from slave.network.prepared import Prepared  # imports torch
        from slave.network.speed import measure_speed

        prepared = Prepared.prepare(config, self._options)
        exposition = self._exposition
        cluster = config.cluster
        exposition.profile, exposition.batch_size = cluster.profile, config.run.batch_size
        exposition.silence_limit = silence_limit(cluster.heartbeat_seconds, cluster.misses)
        self._speed = self._options.speed or measure_speed(prepared.device)
        self._ahead = prepared.ahead
        with contextlib.closing(prepared.ahead), self._endpoint(config) as endpoint:
            rejoin = self._backoff(REJOIN_SECONDS, LONGEST_REJOIN_SECONDS)
            while True:
                lease = self._join(config, str(prepared.device), endpoint.address, prepared.holdings)
                if lease is None:
                    break
                ended = self._session(prepared.on(lease), lease, endpoint)
                if ended is None:
                    break
                if isinstance(ended, Lost):
                    log.warning("lease lost (%s); asking for a new one", ended.error)
                self._pause(ended.delay(rejoin))
        log.info("the run is over")
        return 0

    def _endpoint(self, config: Config) -> Endpoint:
        """Open the event loop for the network; listen in profile `basic`."""
        from slave.network.endpoint import Endpoint

        options = self._options
        endpoint = Endpoint(options.master, self._exposition.note_answer, self._identity, config.run.name)
        try:
            if config.cluster.direct:
                # A stream per slave that calls, and room for slaves about to be replaced or refused.
                streams = most_streams(config) + 8
                way_back = WayBack(self._channel, options, self._backoff(0.1, 1.0), self._right, self._pause)
                endpoint.listen(
                    options.listen, options.advertise, streams, way_back.check, insecure=options.insecure
                )
                log.info("neighbours reach this slave at %s", endpoint.address)
            else:
                _check_unused(options, config.cluster.profile)
        except BaseException:
            endpoint.close()
            raise
        return endpoint

    def _session(self, prepared: Prepared, lease: JoinReply, endpoint: Endpoint) -> Lost | Released | None:
        """Train under a lease to its end; None at the end of the run.

        Raises:
            LayerwiseError: the run cannot go on here, or the master has been away for too long.
        """
        from slave.network.session import Session

        session = Session(prepared, lease, endpoint, self._cpu_before)
        self._wake = session.wake
        self._exposition.watch = session.watched
        if self._stop.is_set():  # since before the session could be woken
            session.wake(Stopped())
        try:
            session.open()
            session.run()
            if session.released:
                log.info("the number of replicas changes; asking for a new lease")
                session.leave("the number of replicas changes")
                return Released()
        except FencedError as error:
            return Lost(error, session.trained)
        except BaseException as error:
            session.leave(str(error) or type(error).__name__)
            if isinstance(error, UnreachableError) and not session.opened:
                return Lost(error, trained=False)
            raise
        finally:
            self._wake, self._exposition.watch = lambda _: None, None
            session.close()
            self._cpu_before = cpu_seconds()
        return None

    def _join(self, config: Config, device: str, address: str, holdings: Holdings) -> JoinReply | None:
        """Ask for a lease until a seat is free; None if the run is over.

        Raises:
            RefusedError: data, user's files or versions are not those of the run.
        """
        request = JoinRequest(
            self._name,
            socket.gethostname(),
            os.getpid(),
            device,
            address,
            self._metrics_address,
            holdings,
            self._key,
            self._speed,
        )
        seconds = config.cluster.heartbeat_seconds / 2
        backoff, announced = self._backoff(seconds / 8, seconds), ""
        while True:
            shown = self._right()
            try:
                reply = control.call_watching(self._channel, JOIN, request, 2.0, self._look, shown)
            except UnprovenError:
                # The token of a master that has just started is found a moment later.
                if shown == self._right():
                    raise
                continue
            except UnreachableError as error:
                absent = isinstance(error, AbsentError)
                seconds = backoff.delay_after(self._no_master() if absent else error)
            else:
                backoff.be_patient()
                self._exposition.note_answer()
                self._site.reader = reply.reader
                if reply.warning and reply.granted:
                    log.warning("%s", reply.warning)
                if reply.granted or reply.over:
                    return reply if reply.granted else None
                news = "waiting until every layer has a slave" if reply.dealing else WAITING
                if news != announced:
                    log.info("%s", announced := news)
                request = self._prepare(request, dealing=reply.dealing)
                seconds = backoff.next_delay()
            self._pause(seconds)

    def _prepare(self, request: JoinRequest, *, dealing: bool) -> JoinRequest:
        """Work ahead of the lease that was not granted yet; return the next request.

        Before the first seats are dealt, a slave has no time for the layers of others.
        """
        if self._ahead is None:
            return request
        if dealing:
            self._ahead.count()
        else:
            self._ahead.start()
        return replace(request, work=self._ahead.work)

    def _right(self) -> Credentials:
        """Read the join token anew for each request: a master that starts after this slave makes the file."""
        options = self._options
        return find_joiner(options.master, options.join_token)

    def _look(self) -> None:
        self._pause(0)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


def _check_unused(options: Options, profile: str) -> None:
    """Refuse options without a meaning in a profile whose slaves do not listen.

    Raises:
        ConfigError: an address to listen on was given.
    """
    for name, address in (("--listen", options.listen), ("--advertise", options.advertise)):
        if address is not None:
            raise ConfigError(
                f'{name} {address}: has no meaning with cluster.profile = "{profile}", whose slaves '
                'connect to the master alone; omit it, or start the master with cluster.profile = "basic"'
            )


def _import_torch() -> None:
    from common.models.threads import use_allowed_cores

    use_allowed_cores()
    # Everything that a lease needs, which would hold the successor of a dead slave up.
    from slave.network import session  # noqa: F401 - for the import alone


def serve(options: Options) -> int:
    """Run a slave, and return the exit code."""
    keep_freed_memory()
    end_with_parent()
    return Slave(options).run()
