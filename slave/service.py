"""A slave's life: find the master, get a layer, train it until the run is over; again when fenced."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.config import files
from common.config.sections import Config
from common.errors import ConfigError, FencedError, UnreachableError
from common.lifecycle import INTERRUPTED, Interrupt, cpu_seconds, end_with_parent, keep_freed_memory
from common.net import control
from common.net.addresses import reachable_address
from common.net.backoff import Backoff
from common.observe.web import Page, Site, serving
from common.wire.messages import DescribeRequest, JoinReply, JoinRequest
from common.wire.methods import DESCRIBE, JOIN
from slave.network.meter import Exposition
from slave.network.options import Options

if TYPE_CHECKING:
    from slave.network.endpoint import Endpoint
    from slave.network.prepared import Prepared

log = logging.getLogger("layerwise.slave")


class Stopped(Exception):  # noqa: N818 - no error: the slave was asked to stop
    """The slave was interrupted."""


class Slave:
    """One process, and what it is to the master."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._name = uuid.uuid4().hex[:12]
        self._channel = control.channel(options.master)
        # Told to the training loop through its inbox, and to everything else by this event.
        self._stop = threading.Event()
        self._cpu_before = 0.0
        self._wake: Callable[[object], None] = lambda _: None
        self._exposition = Exposition()

    def run(self) -> int:
        """Train until the run is over; the exit code.

        Raises:
            UnreachableError: no master for `wait` seconds.
            LayerwiseError: the run's configuration cannot be used here, or the master refused.
        """
        site = Site({"/metrics": self._exposition.metrics, "/healthz": lambda: Page(b"ok\n")})
        with serving(site, self._options.metrics, "--metrics") as shown, Interrupt(self._interrupted):
            self._shown = self._reachable(shown)
            try:
                # Torch takes its time to import: meanwhile the master is asked.
                preload = threading.Thread(target=_import_torch, daemon=True)
                preload.start()
                config = self._described()
                if config is None:
                    return 0
                preload.join()
                return self._train(config)
            except Stopped:
                log.info("interrupted")
                return INTERRUPTED
            finally:
                self._channel.close()

    def _reachable(self, listen: str) -> str:
        try:
            return reachable_address(listen, self._options.master)
        except ConfigError:
            # The master's name may come to be known once the master is up.
            return reachable_address(listen, None)

    def _interrupted(self) -> None:
        self._stop.set()
        self._wake(Stopped())

    def _described(self) -> Config | None:
        """The run's configuration, once there is a master; None when its run is over."""
        backoff, reported = self._backoff(0.2), False
        while True:
            try:
                reply = control.call(self._channel, DESCRIBE, DescribeRequest(), 1.0)
            except UnreachableError:
                delay = backoff.delay_after(self._no_master())
                if not reported:
                    log.info(
                        "no master at %s yet; waiting for up to %g s",
                        self._options.master,
                        self._options.wait,
                    )
                    reported = True
                self._pause(delay)
                continue
            if reply.over:
                log.info("the run is over")
                return None
            return files.parse(reply.config, f"the configuration from {self._options.master}")

    def _no_master(self) -> UnreachableError:
        return UnreachableError(
            f"--master {self._options.master}: no master answered for {self._options.wait:g} s; "
            "start one there with `layerwise master`, or check the address and the firewall"
        )

    def _backoff(self, seconds: float) -> Backoff:
        return Backoff(
            time.monotonic, random.random, first=seconds, longest=seconds, patience=self._options.wait
        )

    def _train(self, config: Config) -> int:
        from slave.network.prepared import Prepared  # imports torch

        ground = Prepared.prepare(config, self._options)
        told = self._exposition
        told.profile, told.batch_size = config.cluster.profile, config.run.batch_size
        with self._endpoint(config) as endpoint:
            while True:
                lease = self._joined(config, str(ground.device), endpoint.address)
                if lease is None:
                    log.info("the run is over")
                    return 0
                if self._session(ground, lease, endpoint):
                    return 0

    def _endpoint(self, config: Config) -> Endpoint:
        """This process' side of the network; in `basic` it listens."""
        from slave.network.endpoint import Endpoint

        options = self._options
        endpoint = Endpoint(options.master)
        try:
            if config.cluster.direct:
                # One a replica below, and room for those that are about to be replaced or refused.
                streams = 2 * max(config.replicas) + 8
                endpoint.listen(options.listen, options.advertise, streams, insecure=options.insecure)
                log.info("neighbours reach this slave at %s", endpoint.address)
            else:
                _check_unused(options, config.cluster.profile)
        except BaseException:
            endpoint.close()
            raise
        return endpoint

    def _session(self, ground: Prepared, lease: JoinReply, endpoint: Endpoint) -> bool:
        """Train under one lease; whether the run is over."""
        from slave.network.session import Session

        try:
            session = Session(ground, lease, endpoint, self._cpu_before)
        except (FencedError, UnreachableError) as error:
            # Also of a master that went away before the layer was fetched: joining waits for it.
            log.warning("lease lost (%s); asking for another", error)
            return False
        self._wake = session.wake
        self._exposition.watch = session.watched
        try:
            if self._stop.is_set():
                raise Stopped
            session.run()
        except FencedError as error:
            log.warning("lease lost (%s); asking for another", error)
            return False
        except BaseException as error:
            session.leave(str(error) or type(error).__name__)
            raise
        finally:
            self._wake, self._exposition.watch = lambda _: None, None
            session.close()
            self._cpu_before = cpu_seconds()
        log.info("the run is over")
        return True

    def _joined(self, config: Config, device: str, address: str) -> JoinReply | None:
        """A lease, once one is free; None when the run is over."""
        request = JoinRequest(self._name, socket.gethostname(), os.getpid(), device, address, self._shown)
        backoff, reported = self._backoff(config.cluster.heartbeat_seconds / 2), False
        while True:
            try:
                reply = control.call(self._channel, JOIN, request, 2.0)
            except UnreachableError as error:
                seconds = backoff.delay_after(error)
            else:
                backoff.reset()
                if reply.granted or reply.over:
                    return reply if reply.granted else None
                if not reported:
                    log.info("every layer has its slave; waiting to take one over")
                    reported = True
                seconds = backoff.next_delay()
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


def _check_unused(options: Options, profile: str) -> None:
    """Refuse options without a meaning in a profile whose slaves do not listen.

    Raises:
        ConfigError: an address to listen on was given.
    """
    for name, given in (("--listen", options.listen), ("--advertise", options.advertise)):
        if given is not None:
            raise ConfigError(
                f'{name} {given}: has no meaning in a run with cluster.profile = "{profile}", whose slaves '
                'know the master alone; leave it out, or start the master with cluster.profile = "basic"'
            )


def _import_torch() -> None:
    import torch

    assert torch.__version__


def serve(options: Options) -> int:
    """Run a slave; the exit code."""
    keep_freed_memory()
    end_with_parent()
    return Slave(options).run()
