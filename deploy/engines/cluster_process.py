"""Process of a cluster on one machine: start, signals, and the times of recent deaths."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from common.net.backoff import Backoff
from deploy import COMMAND
from deploy.runs.process_logs import open_log

# Longest time from a start to a seat.
START_SECONDS = 60.0
# Longest wait for a living master to listen: its first start on a slow machine compiles every module.
LISTEN_SECONDS = 300.0
FIRST_PAUSE_SECONDS = 0.25


@dataclass
class ClusterProcess:
    """A process of the cluster, with recent deaths and the next restart."""

    name: str
    arguments: list[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    failures: int = 0
    backoff: Backoff = field(
        default_factory=lambda: Backoff(time.monotonic, random.random, first=FIRST_PAUSE_SECONDS, longest=4.0)
    )
    restart_at: float = 0.0
    ended: bool = False
    # Whether the last start lacked files or memory.
    lacking: bool = False
    # Process id when the slave was last seen on a seat.
    seated_pid: int = 0

    def start(self, environment: dict[str, str]) -> None:
        """Start the process, with output appended to the log."""
        with open_log(self.log) as output:
            self.running = subprocess.Popen(
                [sys.executable, "-P", "-m", COMMAND, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # A separate session: an interrupt at the terminal is for `train`, which stops all in order.
                start_new_session=True,
            )
        self.started = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the process exists, hanging or not."""
        return self.running is not None and self.running.poll() is None

    @property
    def starting(self) -> bool:
        """True if a restart is due, or if the process was started recently and has no seat yet."""
        if self.running is None or self.ended:
            return not self.ended
        return self.starting_at(time.monotonic())

    def starting_at(self, now: float) -> bool:
        """Whether at `now` seconds the process, dead or alive, was started recently and has had no seat."""
        assert self.running is not None
        return self.seated_pid != self.running.pid and now - self.started < START_SECONDS

    def resume(self) -> None:
        """Send SIGCONT, so that a stopped process can handle the next signal."""
        if self.alive:
            assert self.running is not None
            self.running.send_signal(signal.SIGCONT)

    def stop(self, deadline: float) -> None:
        """Wait for the end of the process until the deadline, then kill."""
        if self.running is None:
            return
        try:
            self.running.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
