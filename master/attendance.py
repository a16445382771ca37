"""Waits of the master's event loop for stores: calls that are held for an order, Joins for a fence."""

from __future__ import annotations

import asyncio
import contextlib
import time

from common.errors import RunFailedError, UnreachableError
from common.wire.stages import Stage
from common.wire.stores import AttendRequest, ListedLease, StoreOrder, TaskKind, TaskResult
from master.stores import Stores

# Bound of a Join's wait for the stores of the layer, of the two seconds that a slave gives the call.
FENCE_SECONDS = 1.0
# A store with a task to do is answered after so long: it reports the end in its next call.
WORKING_SECONDS = 0.05
# Longest task of a store, and a look at the stores meanwhile.
TASK_SECONDS, LOOK_SECONDS = 300.0, 1.0


class Attendance:
    """Stores' calls and who waits for them, on one event loop.

    Args:
        stores: of the run.
        hold: seconds for which a call without an order is held.
    """

    def __init__(self, stores: Stores, hold: float) -> None:
        self._stores = stores
        self._hold = hold
        self._news = asyncio.Event()

    def publish(self, incarnations: int, leases: list[ListedLease], stage: Stage) -> None:
        """Order every store to know these leases and the present stage, which are durable."""
        if self._stores.publish(incarnations, leases, stage):
            self.wake()

    def wake(self) -> None:
        """Have everyone who waits look again: an order is new, or a report."""
        self._news.set()
        self._news = asyncio.Event()

    async def order_for(self, report: AttendRequest) -> StoreOrder:
        """Wait for an order that a store has not reported, for the hold at most; return the present order."""
        # A store with trouble obeys no order until it has put its shards back.
        busy = bool(report.trouble) or self._stores.works(report.store)
        deadline = time.monotonic() + (min(self._hold, WORKING_SECONDS) if busy else self._hold)
        while (report.trouble or self._stores.order.number == report.order) and await self._wait(deadline):
            continue
        self._stores.note_answer(report.store, report.session, time.monotonic())
        return self._stores.order

    async def fence(self, layer: int) -> None:
        """Wait until the stores of a layer know the leases that stand, and those that do not.

        Raises:
            UnreachableError: a store has not reported in time.
        """
        order, deadline = self._stores.order.number, time.monotonic() + FENCE_SECONDS
        while behind := self._stores.behind(layer, order):
            if not await self._wait(deadline):
                raise UnreachableError(
                    f"layer {layer} waits for store {behind[0]}, which has its shards and does not report; "
                    "start the store on its directory"
                )

    def check_present(self) -> None:
        """Refuse while a store is away.

        Raises:
            UnreachableError: a store is missing or late.
        """
        self._stores.check_present(time.monotonic())

    async def perform(
        self, kind: TaskKind, snapshot: int = 0, kept: list[int] | None = None
    ) -> list[TaskResult]:
        """Have every store do a task, and wait for all; one task at a time.

        Raises:
            UnreachableError: a store is away.
            RunFailedError: a store cannot do the task, or takes too long.
        """
        task = self._stores.assign(kind, snapshot, kept)
        self.wake()
        try:
            deadline = time.monotonic() + TASK_SECONDS
            while (found := self._stores.results(task, time.monotonic())) is None:
                if time.monotonic() > deadline:
                    raise RunFailedError(
                        f"{kind.name} of snapshot {snapshot} has not come to its end in {TASK_SECONDS:g} s"
                    )
                await self._wait(time.monotonic() + LOOK_SECONDS)
            return found
        finally:
            # A store that starts later must not do it again: the shards may have changed since.
            self._stores.dismiss()

    async def _wait(self, deadline: float) -> bool:
        """Wait for news; False once the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._news.wait()
        return time.monotonic() < deadline
