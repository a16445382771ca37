"""World of a simulated run: clock, network, processes and faults, drawn from one seed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

from common.errors import LayerwiseError, NoRoomError, UnreachableError
from deploy.simulation.clock import Clock
from master.run import Run
from tests.faults.simulated.disk import Disk
from tests.faults.simulated.faults import Faults
from tests.faults.simulated.links import Links
from tests.faults.simulated.master import SimulatedMaster
from tests.faults.simulated.oracle import FAILED, UNEXPLAINED, UNFINISHED, Oracle
from tests.faults.simulated.plan import Plan, draw_plan
from tests.faults.simulated.slave import Session, SimulatedSlave
from tests.faults.simulated.time_of_master import MasterTime

# Virtual seconds without a fault in which a run must end.
CALM_SECONDS = 240.0
CALL_SECONDS = 2.0
# Heartbeats without a change, after which a run stands still.
STANDSTILL = 20


@dataclass
class Outcome:
    """Outcome of a seed.

    Attributes:
        digest: of every event, in order.
        violations: broken promises with their number.
        counts: events worth a sum over seeds.
    """

    seed: int
    digest: str
    violations: dict[str, int]
    details: list[str]
    counts: dict[str, int] = field(default_factory=dict)


class World:
    """Simulated run of a seed.

    Attributes:
        plan: run and faults.
        draws: source of everything that happens by chance, but on the disk.
    """

    def __init__(self, seed: int, loop: asyncio.AbstractEventLoop, plan: Plan | None = None) -> None:
        self.seed = seed
        self.plan = plan or draw_plan(seed)
        self.draws = random.Random(f"world {seed}")
        self.disk_draws = random.Random(f"disk {seed}")
        self.oracle = Oracle()
        self.disk = Disk(self.disk_draws)
        self.time = MasterTime(lambda: self.now)
        self.cut_slaves: dict[str, tuple[bool, bool]] = {}
        self.cut_pairs: set[frozenset[str]] = set()
        self.calm = False
        # A bit was flipped; then a master without a snapshot refuses to start, and the run is over.
        self.flipped = self.refused = False
        self.log: list[str] | None = None
        self._clock = Clock()
        self._digest = hashlib.blake2b(digest_size=16)
        self._names = 0
        self.links = Links(self)
        self.master = SimulatedMaster(self, loop)
        self.slaves: list[SimulatedSlave] = []
        self._seen: object = None
        self._seen_at = 0.0
        self._faults = Faults(self)

    # --- time

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._clock.now

    @property
    def run(self) -> Run:
        """State machine of the running master."""
        assert self.master.running is not None
        return self.master.running.run

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Have an event happen at a time."""
        self._clock.at(when, event)

    def after(self, seconds: float, event: Callable[[], None], slave: SimulatedSlave | None = None) -> None:
        """Have an event happen later; in a slave that is stopped then, once it continues."""
        self._clock.at(self.now + seconds, partial(self._happen, event, slave))

    def _happen(self, event: Callable[[], None], slave: SimulatedSlave | None) -> None:
        if slave is None:
            event()
        elif slave.alive:
            if slave.frozen_until > self.now:
                self._clock.at(slave.frozen_until, partial(self._happen, event, slave))
            else:
                event()

    def note(self, *words: object) -> None:
        """Add an event to the digest, and to the log of a replay."""
        line = f"{self.now:.6f} {words}"
        self._digest.update(line.encode())
        if self.log is not None:
            self.log.append(line)

    # --- network

    def latency(self) -> float:
        """Draw the seconds that a message takes."""
        seconds = self.draws.uniform(0.001, 0.02)
        if self.plan.late and not self.calm and self.draws.random() < self.plan.late:
            seconds += self.draws.uniform(0.1, 4.0)
        return seconds

    def call(
        self,
        slave: SimulatedSlave,
        work: Callable[[], Any],
        then: Callable[..., None],
        alive: Callable[[], bool],
    ) -> None:
        """Call the master; `then` gets the answer, or the error, unless the caller has gone."""
        finished = False

        def finish(result: Any) -> None:
            nonlocal finished
            if not finished and alive():
                finished = True
                then(result)

        def arrive(answers: bool) -> None:
            if self.master.running is None:
                if answers:
                    self.after(self.latency(), partial(finish, UnreachableError("connection refused")), slave)
                return
            if self.is_cut(slave, asking=True):
                return
            result: Any
            try:
                result = work()
            except LayerwiseError as error:
                result = error
            self.note("call", slave.name, type(result).__name__, str(result)[:80])
            if answers and not self.is_cut(slave, asking=False) and not self._lost():
                self.after(self.latency(), partial(finish, result), slave)

        self.after(CALL_SECONDS, partial(finish, UnreachableError("no answer in time")), slave)
        if not self._lost():
            self.after(self.latency(), partial(arrive, True))
        if self.plan.again and not self.calm and self.draws.random() < self.plan.again:
            self.after(self.latency() + self.draws.uniform(0.0, 5.0), partial(arrive, False))

    def _lost(self) -> bool:
        return bool(self.plan.lost) and not self.calm and self.draws.random() < self.plan.lost

    def is_cut(self, slave: SimulatedSlave, asking: bool | None = None) -> bool:
        """Whether the way from a slave to the master (asking), back, or either, is cut."""
        asked, answered = self.cut_slaves.get(slave.name, (False, False))
        return (asked or answered) if asking is None else asked if asking else answered

    def cut_between(self, one: str, other: str) -> bool:
        """Whether the link between two slaves is cut."""
        return frozenset((one, other)) in self.cut_pairs

    def session_at(self, seat: tuple[int, int]) -> Session | None:
        """Newest session at a seat."""
        sessions = [s.session for s in self.slaves if s.alive and s.session and s.session.seat == seat]
        return max(sessions, key=lambda session: session.incarnation, default=None)

    # --- processes

    def faulty(self, kind: str) -> bool:
        """Whether a kind of fault may strike now."""
        return kind in self.plan.faults and not self.calm

    def add_slave(self) -> None:
        """Start a slave."""
        self._names += 1
        self.slaves.append(SimulatedSlave(self, f"slave-{self._names}"))

    def master_died(self) -> None:
        """Have the next master start in a while."""
        self.note("master died")
        self.links.break_all(via_master=True)
        self.after(self.draws.uniform(0.2, 4.0), self._start_master)

    def _start_master(self) -> None:
        if self.master.running is None:
            self.master.start()

    def start_failed(self, error: LayerwiseError) -> None:
        """Try again where the disk was full; else the run has failed."""
        if isinstance(error, NoRoomError) or self.disk.full:
            self.after(1.0, self._start_master)
        elif self.flipped and "damaged (checksum)" in str(error):
            self.refused = True
        else:
            self.oracle.blame(FAILED, f"at {self.now:.2f} the master did not start: {error}")

    def session_ended(self, session: Session) -> None:
        """Break the pairs of a session."""
        self.links.break_all(session=session)

    def slave_gave_up(self, slave: SimulatedSlave) -> None:
        """Start a successor of a slave whose patience has ended."""
        self.kill_slave(slave)

    def kill_slave(self, slave: SimulatedSlave) -> None:
        """Kill a slave; another process takes its place in a while."""
        self.note("slave died", slave.name)
        slave.alive = False
        session, slave.session = slave.session, None
        if session is not None:
            self.session_ended(session)
        self.after(self.draws.uniform(0.2, 3.0), self.add_slave)

    def slave_failed(self, slave: SimulatedSlave, error: LayerwiseError) -> None:
        """Note a slave that ended by an error without a fault of its own."""
        self.oracle.blame(FAILED, f"at {self.now:.2f} {slave.name}: {type(error).__name__}: {error}")
        self.kill_slave(slave)

    # --- the run

    def simulate(self) -> Outcome:
        """Run to the end."""
        self.after(0.0, self._start_master)
        seats = sum(self.plan.config.replicas)
        for _ in range(seats + self.plan.spares):
            self.after(self.draws.uniform(0.0, 1.0), self.add_slave)
        self._faults.begin()
        self.after(self.plan.seconds, self._calm_down)
        self.after(1.0, self._watch)
        deadline = self.plan.seconds + CALM_SECONDS
        try:
            while self.now < deadline and not self._over() and self._clock.advance():
                continue
        except Exception:  # a defect, of a process or of the simulation
            self.oracle.blame(FAILED, f"at {self.now:.2f}: {traceback.format_exc(limit=-4)}")
            return self._outcome()
        if self.refused:
            return self._outcome()
        if not self._over():
            state = self.master.problems()
            self.oracle.blame(UNFINISHED, f"at {self.now:.2f}: {state}")
        elif self.master.running is not None:
            self.oracle.check(self.master.running.store, "at the end")
        return self._outcome()

    def _over(self) -> bool:
        return self.refused or (self.master.running is not None and self.run.roster.over)

    def _calm_down(self) -> None:
        """End every fault: from now on the run must go to its end."""
        self.calm = True
        self._faults.end()

    def _watch(self) -> None:
        """Look for a standstill, once a heartbeat."""
        if self.master.running is not None:
            run, store = self.run, self.master.running.store
            batches = [seat.telemetry.next_batch for seat in run.roster.seats(0.0)]
            # A push between two looks is progress, even if a rollback has undone it before the second.
            seen = (self.master.starts, store.versions(), batches, self.oracle.applied)
            if seen != self._seen:
                self._seen, self._seen_at = seen, self.now
            elif self.now - self._seen_at > STANDSTILL and not self.master.problems():
                self.oracle.blame(UNEXPLAINED, f"at {self.now:.2f}, since {self._seen_at:.2f}")
                self._seen_at = self.now
        else:
            self._seen_at = self.now
        self.after(1.0, self._watch)

    def _outcome(self) -> Outcome:
        oracle = self.oracle
        counts = {
            "acknowledged": oracle.acknowledged,
            "given up": oracle.given_up,
            "refused": int(self.refused),
            "masters": self.master.starts,
            "slaves": self._names,
            "virtual seconds": round(self.now),
        }
        return Outcome(self.seed, self._digest.hexdigest(), dict(oracle.violations), oracle.details, counts)


def simulate(seed: int, log: list[str] | None = None, plan: Plan | None = None) -> Outcome:
    """Simulate a run of a seed; `log` gets a line for each event."""
    loop = asyncio.new_event_loop()
    logging.disable(logging.CRITICAL)
    try:
        world = World(seed, loop, plan)
        world.log = log
        names = patch("uuid.uuid4", lambda: _Name(world.draws))
        with names, world.time.installed(), patch("master.store.shard.READER_SECONDS", 0.0):
            return world.simulate()
    finally:
        logging.disable(logging.NOTSET)
        loop.close()


class _Name:
    """Random name in the place of a UUID."""

    def __init__(self, draws: random.Random) -> None:
        self.hex = f"{draws.getrandbits(128):032x}"
