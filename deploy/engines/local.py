"""A cluster of processes on this machine: started, watched, started again when they die, and all stopped."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import ConfigError, LayerwiseError, RefusedError, RunFailedError
from common.lifecycle import PARENT
from common.net.backoff import Backoff
from common.wire.messages import StatusReply
from deploy.runs.directory import CONFIG, RunDirectory

START_SECONDS = 60.0
SLAVES_STOP_SECONDS, MASTER_STOP_SECONDS = 10.0, 5.0
# Deaths of a process within STEADY_SECONDS of its start count as a row; ATTEMPTS restarts in a row are made.
STEADY_SECONDS, FIRST_PAUSE_SECONDS, ATTEMPTS = 30.0, 0.25, 5
# A seat that stays vacant for so many heartbeats, though every process lives, is given a spare slave.
VACANT_BEATS = 4


@dataclass
class Process:
    """One process of the cluster, and how often it has died lately."""

    name: str
    arguments: list[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    backoff: Backoff = field(
        default_factory=lambda: Backoff(time.monotonic, random.random, first=FIRST_PAUSE_SECONDS, longest=4.0)
    )
    due: float = 0.0
    ended: bool = False
    # Its id when it was last seen on a seat.
    seated: int = 0

    def start(self, environment: dict[str, str]) -> None:
        """Start it, its output going to its log."""
        with self.log.open("ab") as output:
            self.running = subprocess.Popen(
                [sys.executable, "-m", "deploy.cli", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # A session of its own: an interrupt at the terminal is for `train`, which stops all in order.
                start_new_session=True,
            )
        self.started = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether it runs, or hangs."""
        return self.running is not None and self.running.poll() is None

    @property
    def on_its_way(self) -> bool:
        """Whether it is about to be started again, or was started lately and not seen on a seat yet."""
        if self.running is None or self.ended:
            return not self.ended
        return self.seated != self.running.pid and time.monotonic() - self.started < START_SECONDS

    def go_on(self) -> None:
        """Should it have been stopped (SIGSTOP), let it see what is asked of it."""
        if self.alive:
            assert self.running is not None
            self.running.send_signal(signal.SIGCONT)

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self, deadline: float) -> None:
        """Wait until the deadline for it to end, then kill it."""
        if self.running is None:
            return
        try:
            self.running.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()


@dataclass
class Cluster:
    """A master and as many slaves as there are seats."""

    directory: RunDirectory
    slaves: int
    device: str = "auto"
    log_format: str = "plain"
    address: str = ""
    # Where the live page is.
    web: str = ""
    restarts: int = 0
    processes: list[Process] = field(default_factory=list)
    _vacant_since: float | None = None

    def start(self) -> None:
        """Start the master, wait until it listens, then start the slaves.

        Raises:
            LayerwiseError: the master did not come up.
        """
        (self.directory.state / "address").unlink(missing_ok=True)
        self._master = self._process("master", self._master_arguments("127.0.0.1:0", "127.0.0.1:0"))
        self._master.start(self._environment())
        self.address = self._listening()
        self.web = (self.directory.state / "web").read_text(encoding="utf-8")
        # Again at the same addresses if it dies: the slaves know no other, nor does who watches.
        self._master.arguments = self._master_arguments(self.address, self.web)
        for _ in range(self.slaves):
            self._add_slave()

    def check(self) -> list[str]:
        """Start again what has died; what happened, a line each.

        Raises:
            LayerwiseError: a process cannot run here, or dies again and again.
        """
        return [event for process in self.processes for event in self._check(process)]

    def relieve(self, status: StatusReply, heartbeat_seconds: float) -> list[str]:
        """Start a spare slave where one hangs: it lives, but has lost its lease, and nobody takes its seat.

        When the one that hung goes on after all, it waits for a seat as any spare does. There are never more
        spares than seats.
        """
        pids, now = {seat.pid for seat in status.seats}, time.monotonic()
        slaves = [process for process in self.processes if process is not self._master]
        for slave in slaves:
            if slave.running is not None and slave.running.pid in pids:
                slave.seated = slave.running.pid
        vacant = [seat for seat in status.seats if seat.state == "vacant"]
        taken = not vacant or status.waiting_slaves or any(slave.on_its_way for slave in slaves)
        if taken or len(slaves) >= 2 * self.slaves:
            self._vacant_since = None
            return []
        self._vacant_since = self._vacant_since or now
        if now - self._vacant_since < VACANT_BEATS * heartbeat_seconds:
            return []
        self._vacant_since = None
        self.restarts += 1
        spare = self._add_slave()
        return [f"layer {vacant[0].layer} has no slave though none has died: one hangs; {spare.name} started"]

    def finish(self) -> None:
        """Give the slaves the time to learn that the run is over, and to go by themselves."""
        deadline = time.monotonic() + SLAVES_STOP_SECONDS
        for process in self.processes:
            process.go_on()
        for process in self.processes:
            if process is not self._master and process.running is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.running.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Stop every process: the slaves first, so that their last pushes find the master."""
        for chosen, seconds in (
            ([p for p in self.processes if p is not self._master], SLAVES_STOP_SECONDS),
            ([self._master], MASTER_STOP_SECONDS),
        ):
            for process in chosen:
                if process.running is not None and process.alive:
                    process.running.terminate()
                    process.go_on()
            deadline = time.monotonic() + seconds
            for process in chosen:
                process.stop(deadline)

    def _check(self, process: Process) -> list[str]:
        now = time.monotonic()
        if process.running is None:
            if now < process.due:
                return []
            process.start(self._environment())
            self.restarts += 1
            return [f"{process.name} started again"]
        code = process.running.poll()
        if code is None or process.ended:
            return []
        if code == 0 and process is not self._master:
            process.ended = True
            return []
        return [self._died(process, code, now)]

    def _died(self, process: Process, code: int, now: float) -> str:
        if now - process.started >= STEADY_SECONDS:
            process.deaths = 0
            process.backoff.reset()
        process.deaths += 1
        if code == ConfigError.exit_code:
            raise ConfigError(_said(process))
        if process.deaths > ATTEMPTS:
            raise RunFailedError(
                f"{process.name} died {process.deaths} times in a row: {process.last_words()} "
                f"(see {process.log})"
            )
        process.running = None
        process.due = now + process.backoff.next_delay()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        return f"{process.name} {how}; starting it again"

    def _listening(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        file = self.directory.state / "address"
        assert self._master.running is not None
        while time.monotonic() < deadline:
            code = self._master.running.poll()
            if code is not None:
                kind: type[LayerwiseError] = {2: ConfigError, 3: RefusedError}.get(code, RunFailedError)
                raise kind(_said(self._master))
            if file.exists():
                return file.read_text(encoding="utf-8")
            time.sleep(0.02)
        raise RunFailedError(f"the master did not listen within {START_SECONDS:g} s; see {self._master.log}")

    def _add_slave(self) -> Process:
        number = len(self.processes)
        arguments = ["slave", "--master", self.address, "--device", self.device]
        arguments += ["--log-format", self.log_format]
        slave = self._process(f"slave-{number}", arguments)
        slave.start(self._environment())
        return slave

    def _process(self, name: str, arguments: list[str]) -> Process:
        process = Process(name, arguments, self.directory.log(name))
        self.processes.append(process)
        return process

    def _master_arguments(self, listen: str, web: str) -> list[str]:
        config, state = str(self.directory.path / CONFIG), str(self.directory.state)
        addresses = ["--listen", listen, "--web", web]
        return ["master", config, *addresses, "--state-dir", state, "--log-format", self.log_format]

    def _environment(self) -> dict[str, str]:
        # Processes that share cores must not each start a thread for every core.
        threads = str(max(1, (os.cpu_count() or 1) // self.slaves))
        return {"OMP_NUM_THREADS": threads, **os.environ, PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}


def _said(process: Process) -> str:
    return process.last_words().removeprefix("layerwise: ")
