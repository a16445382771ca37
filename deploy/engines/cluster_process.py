"""Process of a cluster: what an engine has placed, and the times of recent deaths."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass, field

from common.net.backoff import Backoff
from deploy.engines.engine import Engine, Order, Process

# Longest time from a start to a seat.
START_SECONDS = 60.0
# Longest wait for a living master to listen: its first start on a slow machine compiles every module.
LISTEN_SECONDS = 300.0
FIRST_PAUSE_SECONDS = 0.25


@dataclass
class ClusterProcess:
    """A process of the cluster, with recent deaths and the next restart."""

    order: Order
    running: Process | None = None
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
    # Place of the slave when it was last seen on a seat.
    seated: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        """Name of the process."""
        return self.order.name

    def start(self, engine: Engine) -> None:
        """Have the process placed."""
        self.running = engine.place(self.order)
        self.started = time.monotonic()

    def poll(self, now: float) -> int | None:
        """Return the exit code at `now` seconds, None before the end; time without a place does not count."""
        assert self.running is not None
        if self.running.place is None:
            self.started = now
        return self.running.poll()

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
        place = self.running.place
        return place is None or (self.seated != place and now - self.started < START_SECONDS)

    def resume(self) -> None:
        """Send SIGCONT, so that a stopped process can handle the next signal."""
        if self.alive:
            assert self.running is not None
            self.running.send_signal(signal.SIGCONT)

    def stop(self, deadline: float) -> None:
        """Wait for the end of the process until the deadline, then kill."""
        if self.running is not None and not self.running.wait(max(0.0, deadline - time.monotonic())):
            self.running.kill()
