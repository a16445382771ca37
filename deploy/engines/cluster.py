"""Cluster of processes on an engine: start, restart after a death, stop."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import ConfigError, LayerwiseError, RefusedError, RunFailedError
from common.net.addresses import on_loopback
from common.net.listening import join_address
from common.supervision import is_transient
from common.wire.messages import StatusReply
from deploy.certificates import folders
from deploy.engines.cluster_process import LISTEN_SECONDS, ClusterProcess
from deploy.engines.engine import MASTER, SLAVE, STORE, Engine, Order
from deploy.runs.directory import CONFIG, RunDirectory
from deploy.runs.process_logs import bound_log, last_line

SLAVES_STOP_SECONDS, MASTER_STOP_SECONDS = 10.0, 5.0
# Deaths within STEADY_SECONDS of the start count as consecutive; the run fails after more than ATTEMPTS.
STEADY_SECONDS, ATTEMPTS = 30.0, 5
# A process that ends by its own decision, for a cause that it names, may do so this often, in all of the run.
FAILURES = 1
# A seat that stays vacant for this many heartbeats, while every process lives, gets a spare slave.
VACANT_BEATS = 4


@dataclass
class Cluster:
    """A master, its stores, and a slave for every seat.

    Attributes:
        engine: places the processes.
        stores: number of processes that keep the shards; 0: the master keeps them.
        tls: folder of certificates, or of one certificate for all; None: in the clear.
    """

    engine: Engine
    directory: RunDirectory
    slaves: int
    tls: Path | None = None
    log_format: str = "plain"
    stores: int = 0
    address: str = ""
    # Address of the master's live page.
    web: str = ""
    restarts: int = 0
    processes: list[ClusterProcess] = field(default_factory=list)
    _stores: list[ClusterProcess] = field(default_factory=list)
    # Ends by own decision, by cause: a cause that another process of the layer meets again is no accident.
    _causes: Counter[str] = field(default_factory=Counter)
    _vacant_since: float | None = None

    def start_master(self) -> None:
        """Start the master, and wait until it listens.

        Raises:
            LayerwiseError: the master did not start.
        """
        (self.directory.state / "address").unlink(missing_ok=True)
        self._master = self._process(self._order_master(join_address(self.engine.host, 0), on_loopback(0)))
        self._master.start(self.engine)
        self.address = self._wait_for_address()
        self.web = (self.directory.state / "web").read_text(encoding="utf-8")
        # A restarted master keeps the addresses, which slaves and viewers know.
        self._master.order = self._order_master(self.address, self.web)

    def start_stores(self) -> None:
        """Start the stores, each on its directory in the run's; slaves wait until all have joined."""
        for number in range(1, self.stores + 1):
            name = folders.store_name(number)
            arguments = (f"--state-dir={self.directory.path / name}", *self._common_arguments)
            tls = folders.folder_of(self.tls, name) if self.tls else None
            store = self._process(Order(name, STORE, arguments, tls, self.directory.log(name)))
            self._stores.append(store)
            store.start(self.engine)

    def start_slaves(self) -> None:
        """Start a slave for every seat."""
        for _ in range(self.slaves):
            self._add_slave()

    def check(self) -> list[str]:
        """Restart dead processes and bound their logs; return the events as lines.

        Raises:
            LayerwiseError: a process cannot run here, or keeps dying.
        """
        for process in self.processes:
            bound_log(process.order.log)
        events = [event for process in self.processes for event in self._check(process)]
        return [*events, *self.engine.tell()]

    def relieve(self, status: StatusReply, heartbeat_seconds: float) -> list[str]:
        """Restart slaves that ended as if the run were over, and start a spare for a slave that hangs.

        A slave that hangs is alive and has no lease, while a seat stays vacant; when it resumes, it waits for
        a seat, like a spare. Spares never outnumber seats.

        Args:
            status: fetched after the last check; the run is not over.
            heartbeat_seconds: of the run.

        Raises:
            RunFailedError: a process keeps dying.
            LayerwiseError: a process has refused the configuration, or was refused.
        """
        seated, now = {(seat.host, seat.pid) for seat in status.seats}, time.monotonic()
        slaves = self._slaves
        for slave in slaves:
            if slave.running is not None and slave.running.place in seated:
                slave.seated = slave.running.place
        ended = [self._schedule_restart(slave, 0, now) for slave in slaves if slave.ended]
        ended += self._grow(status)
        vacant = [seat for seat in status.seats if seat.state == "vacant"]
        taken = not vacant or status.waiting_slaves or any(slave.starting for slave in slaves)
        if taken or len(slaves) >= 2 * self.slaves:
            self._vacant_since = None
            return ended
        self._vacant_since = self._vacant_since or now
        if now - self._vacant_since < VACANT_BEATS * heartbeat_seconds:
            return ended
        self._vacant_since = None
        spare = self._plan_slave()
        events = self._restart(spare)
        if spare.running is None:
            return [*ended, *events]
        return [
            *ended,
            f"layer {vacant[0].layer} has no slave, and none has died: one hangs; started {spare.name}",
        ]

    def _grow(self, status: StatusReply) -> list[str]:
        """Start a slave for each seat that the number of replicas has added, or is about to add."""
        seats = max(len(status.seats), sum(status.resizing.replicas))
        wanted = seats - max(self.slaves, len(self._slaves))
        self.slaves = max(self.slaves, seats)
        names = [self._add_slave().name for _ in range(wanted)]
        return [f"started {', '.join(names)}, for {seats} seats"] if names else []

    def finish(self) -> None:
        """Wait until the slaves have learned of the run's end and have exited."""
        deadline = time.monotonic() + SLAVES_STOP_SECONDS
        for process in self.processes:
            process.resume()
        for process in self._slaves:
            # A slave that waits for room has nothing to end.
            if process.running is not None and process.running.place:
                process.running.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Stop every process, the slaves first, so that the last pushes reach master and stores."""
        for chosen, seconds in (
            (self._slaves, SLAVES_STOP_SECONDS),
            (self._stores, MASTER_STOP_SECONDS),
            ([self._master], MASTER_STOP_SECONDS),
        ):
            for process in chosen:
                if process.running is not None and process.alive:
                    process.running.send_signal(signal.SIGTERM)
                    process.resume()
            deadline = time.monotonic() + seconds
            for process in chosen:
                process.stop(deadline)

    def _check(self, process: ClusterProcess) -> list[str]:
        now = time.monotonic()
        if process.running is None:
            return self._restart(process) if now >= process.restart_at else []
        code = process.poll(now)
        if code is None or process.ended:
            return []
        if code == 0 and process in self._slaves:
            process.ended = True
            return []
        return [self._schedule_restart(process, code, now)]

    def _restart(self, process: ClusterProcess) -> list[str]:
        """Start a process; where files or memory are short, a later check tries again, with one event."""
        try:
            process.start(self.engine)
        except OSError as error:
            if not is_transient(error):
                raise
            process.restart_at = time.monotonic() + process.backoff.next_delay()
            known, process.lacking = process.lacking, True
            return [] if known else [f"{process.name} cannot be started: {error.strerror}; trying again"]
        process.lacking = False
        self.restarts += 1
        return [f"{process.name} restarted"]

    def _schedule_restart(self, process: ClusterProcess, code: int, now: float) -> str:
        if now - process.started >= STEADY_SECONDS:
            process.deaths = 0
            process.backoff.reset()
        process.deaths += 1
        if code == ConfigError.exit_code:
            raise ConfigError(_error_text(process))
        if code == RefusedError.exit_code and process.starting_at(now):
            # A slave whose master is away goes on trying for longer: the master has refused this one.
            raise RefusedError(_error_text(process))
        if code == RunFailedError.exit_code:
            self._count_failure(process)
        if process.deaths > ATTEMPTS:
            raise RunFailedError(
                f"{process.name} died {process.deaths} times in a row: {last_line(process.order.log)} "
                f"(see {process.order.log})"
            )
        assert process.running is not None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        how = process.running.loss or how
        process.running, process.ended = None, False
        process.restart_at = now + process.backoff.next_delay()
        return f"{process.name} {how}; restarting it"

    def _count_failure(self, process: ClusterProcess) -> None:
        """Count an end by the process' own decision.

        Raises:
            RunFailedError: the process, or its cause, has ended one too often.
        """
        text = _error_text(process)
        cause = re.sub(r"batch \d+", "batch", text)
        process.failures += 1
        self._causes[cause] += 1
        if max(process.failures, self._causes[cause]) > FAILURES:
            raise RunFailedError(f"{process.name}: {text} (see {process.order.log})")

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + LISTEN_SECONDS
        file = self.directory.state / "address"
        assert self._master.running is not None
        while time.monotonic() < deadline:
            code = self._master.running.poll()
            if code is not None:
                kind: type[LayerwiseError] = {2: ConfigError, 3: RefusedError}.get(code, RunFailedError)
                raise kind(_error_text(self._master))
            if file.exists():
                return file.read_text(encoding="utf-8")
            time.sleep(0.02)
        raise RunFailedError(
            f"the master did not listen within {LISTEN_SECONDS:g} s; see {self._master.order.log}"
        )

    def _add_slave(self) -> ClusterProcess:
        slave = self._plan_slave()
        slave.start(self.engine)
        return slave

    @property
    def _slaves(self) -> list[ClusterProcess]:
        return [each for each in self.processes if each is not self._master and each not in self._stores]

    @property
    def _common_arguments(self) -> tuple[str, str]:
        """Arguments of slaves and stores."""
        return f"--master={self.address}", f"--log-format={self.log_format}"

    def _plan_slave(self) -> ClusterProcess:
        number = 1 + len(self._slaves)
        tls = folders.slave_folder(self.tls, number) if self.tls else None
        name = folders.slave_name(number)
        log = self.directory.log(name)
        return self._process(Order(name, SLAVE, self._common_arguments, tls, log, number - 1))

    def _process(self, order: Order) -> ClusterProcess:
        process = ClusterProcess(order)
        self.processes.append(process)
        return process

    def _order_master(self, listen: str, web: str) -> Order:
        config, state = self.directory.path / CONFIG, self.directory.state
        places = (f"--listen={listen}", f"--web={web}", f"--state-dir={state}")
        arguments = (str(config), *places, f"--log-format={self.log_format}")
        tls = folders.folder_of(self.tls, folders.MASTER) if self.tls else None
        return Order(MASTER, MASTER, arguments, tls, self.directory.log(MASTER))


def _error_text(process: ClusterProcess) -> str:
    return last_line(process.order.log).removeprefix("layerwise: ")
