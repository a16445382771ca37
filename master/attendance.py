"""Waits of the master's event loop for stores: calls that are held for an order, Joins for a fence."""

from __future__ import annotations

import asyncio
import contextlib
import time

from common.errors import UnreachableError
from common.wire.stores import AttendRequest, ListedLease, StoreOrder
from master.stores import Stores

# Bound of a Join's wait for the stores of the layer, of the two seconds that a slave gives the call.
FENCE_SECONDS = 1.0


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

    def publish(self, incarnations: int, leases: list[ListedLease]) -> None:
        """Order every store to know these leases, which are durable."""
        if self._stores.publish(incarnations, leases):
            self.wake()

    def wake(self) -> None:
        """Have everyone who waits look again: an order is new, or a report."""
        self._news.set()
        self._news = asyncio.Event()

    async def order_for(self, report: AttendRequest) -> StoreOrder:
        """Wait for an order that a store has not reported, for the hold at most; return the present order."""
        deadline = time.monotonic() + self._hold
        while self._stores.order.number == report.order and await self._wait(deadline):
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

    async def _wait(self, deadline: float) -> bool:
        """Wait for news; False once the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._news.wait()
        return time.monotonic() < deadline
