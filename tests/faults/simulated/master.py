"""Master of a simulated run: the real master's parts on a simulated disk, killed and started again."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from unittest.mock import patch

from common.errors import LayerwiseError, UnreachableError, from_status
from common.observe.problems import problems
from common.shards.pushes import Header, Operation, PullRequest, PushReply
from common.shards.working_copy import Push
from common.wire.messages import RollbackReply
from master.disk.scrub import SCRUB_SECONDS
from master.disk.state import StateDirectory
from master.service import Master
from tests.faults.simulated.disk import Killed, SimulatedFiles

if TYPE_CHECKING:
    from tests.faults.simulated.world import World

STATE = Path("/state")
# Bytes of a piece of a push; between two pieces the master may be killed.
PIECE_BYTES = 512

Result = TypeVar("Result")


class Inline(Executor):
    """Executor that works at once: a thread would leave the order to the machine."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take the arguments of a pool."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Work, and return the result."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except BaseException as error:  # a kill passes on to the event loop's caller
            future.set_exception(error)
        return future

    def shutdown(self, *_: object, **__: object) -> None:
        """Do nothing."""


class SimulatedMaster:
    """Master process of a world, up or down.

    Attributes:
        running: the real master; None while down.
        starts: number of masters so far.
    """

    def __init__(self, world: World, loop: asyncio.AbstractEventLoop) -> None:
        self.running: Master | None = None
        self.starts = 0
        self._world, self._loop = world, loop
        self._files: SimulatedFiles | None = None

    def start(self) -> None:
        """Start on the state directory; a start that fails is tried again later."""
        world = self._world
        self.starts += 1
        self._files = SimulatedFiles(world.disk, world.disk_draws, world.note)
        if world.faulty("kill master at a write") and world.draws.random() < 0.3:
            self._files.kill_in = world.draws.randint(1, 80)
        try:
            with (
                patch("master.disk.shelves.ThreadPoolExecutor", Inline),
                patch("master.disk.state.ThreadPoolExecutor", Inline),
            ):
                self.running = Master(world.plan.config, StateDirectory(STATE, self._files))
        except Killed:
            self.die()
            return
        except LayerwiseError as error:
            world.note("no start", str(error))
            self._files.dead = True
            world.start_failed(error)
            return
        world.note("start", self.starts)
        world.oracle.settled(self.running.run.roster)
        world.oracle.check(self.running.store, f"at {world.now:.2f}, start {self.starts}")
        self._repeat(self.running.run.roster.tick_seconds, self._tick)
        self._repeat(world.plan.config.cluster.snapshot_seconds, self._snapshot)
        self._repeat(SCRUB_SECONDS, self._scrub)

    def _repeat(self, seconds: float, work: Callable[[], None]) -> None:
        master = self.running

        def once() -> None:
            if self.running is master:
                work()
                self._world.after(seconds, once)

        self._world.after(seconds, once)

    def kill(self) -> None:
        """Kill the process."""
        if self._files and not self._files.dead:
            self._files.dead = True
            self.die()

    def kill_at_write(self, operations: int) -> None:
        """Kill the process at one of its next operations on files."""
        if self._files and not self._files.dead:
            self._files.kill_in = operations

    def die(self) -> None:
        """Note that the process has died."""
        self.running = None
        self._world.master_died()

    def execute(self, work: Callable[[Master], Result]) -> Result:
        """Have the master work, as for a call.

        Raises:
            LayerwiseError: the master refuses, as the error reaches a caller over the wire.
            UnreachableError: the master is down, or dies.
        """
        master = self.running
        if master is None:
            raise UnreachableError("the master is down")
        try:
            result = work(master)
        except Killed:
            self.die()
            raise UnreachableError("the master has died") from None
        except LayerwiseError as error:
            raise from_status(error.status, str(error)) from None
        return result

    def apply(self, decide: Callable[[Any, float], Result], request: object) -> Result:
        """Give the run a request, by way of the ledger."""

        def work(master: Master) -> Result:
            result: Result = self._wait(master.ledger.apply(decide, request))
            self._world.oracle.settled(master.run.roster)
            return result

        return self.execute(work)

    def push(self, push: Push) -> PushReply:
        """Push, in pieces."""
        header = push.header

        def work(master: Master) -> PushReply:
            master.parameters.admit(header)
            if header.operation is Operation.CREATE:
                return master.parameters.push(header, [(0, push.buffer.data)])
            return master.parameters.land(header, lambda _: self._pieces(push))

        reply = self.execute(work)
        self._world.oracle.answered(push, reply)
        return reply

    @contextmanager
    def _pieces(self, push: Push) -> Iterator[Iterator[tuple[int, memoryview]]]:
        def pieces() -> Iterator[tuple[int, memoryview]]:
            for start in range(0, len(push.buffer), PIECE_BYTES):
                assert self._files is not None
                self._files.step("piece", push.header.shard)
                yield start, push.buffer.data[start : start + PIECE_BYTES]

        yield pieces()

    def pull(self, shard: str, incarnation: int) -> tuple[Header, bytes]:
        """Pull a version."""

        def work(master: Master) -> tuple[Header, bytes]:
            reading = master.parameters.read(PullRequest(shard, incarnation))
            try:
                return reading.header, bytes(reading.buffer)
            finally:
                reading.release()

        return self.execute(work)

    def _tick(self) -> None:
        """Tell the run the time."""

        def work(master: Master) -> None:
            self._wait(master.ledger.tick())
            self._world.oracle.settled(master.run.roster)

        self._quietly(work)

    def _snapshot(self) -> None:
        """Take the snapshot that is due."""
        mark = self._world.oracle.mark()
        before = self._newest()
        self._quietly(lambda master: self._wait(master.scheduler.take_if_changed()))
        if self._newest() > before:
            self._world.oracle.kept(mark)

    def _scrub(self) -> None:
        """Scrub the shards."""
        if damage := self._quietly(lambda master: master.scrub.run()):
            self._quietly(lambda master: self._wait(master.scheduler.repair(damage)))

    def snapshot(self) -> None:
        """Take a snapshot on demand."""
        mark = self._world.oracle.mark()
        before = self._newest()
        self._quietly(lambda master: self._wait(master.scheduler.take()))
        if self._newest() > before:
            self._world.oracle.kept(mark)

    def roll_back(self) -> None:
        """Roll the run back to the newest snapshot."""
        self._world.oracle.may_lose = True
        reply: RollbackReply | None = self._quietly(lambda master: self._wait(master.scheduler.roll_back(0)))
        if reply and self.running:
            self._world.oracle.check(self.running.store, f"at {self._world.now:.2f}, rolled back")

    def _newest(self) -> int:
        return self.running.scheduler.newest.number if self.running else 0

    def _quietly(self, work: Callable[[Master], Result]) -> Result | None:
        """Have the master work by itself; a full disk or the like is no failure."""
        try:
            return self.execute(work)
        except LayerwiseError as error:
            self._world.note("master", str(error))
            return None

    def _wait(self, result: Any) -> Any:
        """Run a coroutine to the end."""
        if inspect.iscoroutine(result):
            coroutine: Coroutine[Any, Any, Any] = result
            return self._loop.run_until_complete(coroutine)
        return result

    def problems(self) -> list[str]:
        """Problems that the master would show."""
        if self.running is None:
            return ["the master is away"]
        master = self.running
        status = master.run.status(self._world.time.monotonic())
        status = dataclasses.replace(status, snapshot_trouble=master.scheduler.trouble)
        return [problem.what for problem in problems(status, master.run.config, "layerwise slave")]
