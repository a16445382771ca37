"""A real master and the shelves of two real stores on simulated disks, killed at any operation on a file.

Calls go straight to the servicer: no port, no thread, and a death of the master ends the calls under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np

from common.config.files import load
from common.errors import LayerwiseError, UnreachableError
from common.wire.messages import JoinReply, JoinRequest
from common.wire.stores import PlaceRequest, TaskResult
from master.disk.state import StateDirectory
from master.service import Master
from master.servicers.stores import StoresServicer
from master.storing.shelf import Shelf
from tests.faults.simulated.disk import Disk, Killed, SimulatedFiles
from tests.faults.simulated.master import Inline
from tests.master.pushes import creation, update
from tests.master.served import DEADLINE, key_of

Result = TypeVar("Result")

MASTER, STORES = 0, (1, 2)
# One shard for each store: the first of two with equal bytes goes to store 1.
SHARDS = {1: "1/weights", 2: "1/gradient"}
CONFIG = load(
    None,
    [
        "network.cuts=[1, 2]",
        "cluster.stores=2",
        "cluster.heartbeat_seconds=0.05",
        # No store is late: the clock decides nothing here.
        "cluster.misses=10000",
    ],
)


class Rig:
    """Processes of a run by number, 0 for the master.

    Attributes:
        disks: of the machines.
        files: of the running processes.
    """

    def __init__(self) -> None:
        self._draws = random.Random(0)
        self.disks = {who: Disk(self._draws) for who in (MASTER, *STORES)}
        self.files: dict[int, SimulatedFiles] = {}
        self.shelves: dict[int, Shelf] = {}
        self.master: Master
        self._servicer: StoresServicer
        # Calls at the present master, and what it does by itself.
        self._calls: set[asyncio.Future[Any]] = set()
        self._lives: list[asyncio.Future[None]] = []

    def start(self, who: int) -> None:
        """Start a process on its disk."""
        files = SimulatedFiles(self.disks[who], self._draws, lambda *_: None)
        self.files[who] = files
        if who != MASTER:
            self.shelves[who] = Shelf(CONFIG, StateDirectory(Path("/store"), files))
            return
        self.master = Master(CONFIG, StateDirectory(Path("/state"), files))
        self._servicer = StoresServicer(self.master.run, self.master.ledger, self.master.attendance)

    async def begin(self) -> None:
        """Start everything, and create a shard in each store."""
        self.start(MASTER)
        for who in STORES:
            self.start(who)
            self._lives.append(asyncio.ensure_future(self._live(who)))
            await self.until(partial(self._all_obey, most=who))
        lease = await self.join("a")
        for who, shard in SHARDS.items():
            placed = await self.call(self._servicer.place(PlaceRequest(lease.incarnation, shard, 4)))
            assert placed.store == who
            header, pieces = creation([0.0], incarnation=lease.incarnation, shard=shard)
            self.shelves[who].parameters.push(header, pieces)

    async def _live(self, who: int) -> None:
        """Report and obey, as a store does; a store that dies is started again."""
        shelf, session, order, result = None, "", 0, TaskResult()
        while True:
            if shelf is not self.shelves[who]:
                shelf, session, order, result = self.shelves[who], uuid.uuid4().hex, 0, TaskResult()
            assert shelf is not None
            try:
                report = replace(
                    shelf.report(), session=session, address="127.0.0.1:1", order=order, result=result
                )
                reply = await self.call(self._servicer.attend(report))
                shelf.note_run(reply.run)
                if shelf.obey(reply.order):
                    order = reply.order.number
                if reply.order.task.number not in (0, result.number):
                    result = shelf.perform(reply.order.task)
            except Killed:
                self._bury()
            except UnreachableError:
                await asyncio.sleep(0)

    async def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Call the master.

        Raises:
            Killed: a process has died on the way.
            UnreachableError: the master has died meanwhile.
        """
        task = asyncio.ensure_future(work)
        self._calls.add(task)
        await asyncio.wait({task})
        self._calls.discard(task)
        if task.cancelled():
            raise UnreachableError("the master has died")
        return task.result()

    def _bury(self) -> None:
        """Start processes that have died again."""
        if self.files[MASTER].dead:
            for each in self._calls:
                each.cancel()
            self.start(MASTER)
            self.look_after()
        for who in STORES:
            if self.files[who].dead:
                self.start(who)

    def look_after(self) -> None:
        """Have the master finish a rollback that stands half-way, as it does by itself."""
        self._calls.add(asyncio.ensure_future(self.master.scheduler.take_periodically(1e6)))

    async def attempt(self, work: Coroutine[Any, Any, object]) -> bool:
        """Have the master work; whether it came to the end, whoever died."""
        try:
            await self.call(work)
        except Killed:
            self._bury()
        except LayerwiseError:
            return False
        else:
            return True
        return False

    async def settle(self) -> None:
        """Wait until every process lives, every store obeys, and no rollback stands half-way."""

        def settled() -> bool:
            self._bury()
            with contextlib.suppress(UnreachableError):
                self.master.run.check_open()
                return self._all_obey() and not any(shelf.trouble for shelf in self.shelves.values())
            return False

        await self.until(settled)

    def _all_obey(self, most: int = len(STORES)) -> bool:
        stores = self.master.run.stores
        assert stores is not None
        return sum(report.order == stores.order.number for report in stores.reports()) >= most

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0.0005)

    async def join(self, slave: str) -> JoinReply:
        """Take the lowest free layer, and wait for the stores as Join does."""
        request = JoinRequest(slave, key=key_of(slave))
        reply = await self.call(self.master.ledger.apply(self.master.run.join, request))
        assert self.master.attendance is not None
        await self.call(self.master.attendance.fence(reply.layer))
        return reply

    def push(self, incarnation: int, sequence: int, number: float = 1.0) -> None:
        """Push to both shards; acknowledged when this returns."""
        for who, shard in SHARDS.items():
            header, pieces = update([number], sequence, incarnation=incarnation, shard=shard)
            assert self.shelves[who].parameters.push(header, pieces).applied

    def values(self) -> tuple[float, ...]:
        """The number in each store's shard."""
        found = []
        for who, shard in SHARDS.items():
            reading = self.shelves[who].store.read(shard)
            found.append(float(np.frombuffer(reading.buffer, np.float32)[0]))
            reading.release()
        return tuple(found)

    async def end(self) -> None:
        """End every task."""
        rest = [*self._calls, *self._lives]
        for each in rest:
            each.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Context in which disks work at once, and nobody waits for long."""
    with (
        patch("master.disk.shelves.ThreadPoolExecutor", Inline),
        patch("master.disk.state.ThreadPoolExecutor", Inline),
        patch("master.attendance.WORKING_SECONDS", 0.0005),
        patch("master.disk.scheduler.RETRY_SECONDS", 0.001),
    ):
        yield


def play(scene: Callable[[Rig], Coroutine[Any, Any, Result]]) -> Result:
    """Play a scene on a rig that has begun."""

    async def run() -> Result:
        rig = Rig()
        await rig.begin()
        try:
            return await scene(rig)
        finally:
            await rig.end()

    with hurried():
        return asyncio.run(run())
