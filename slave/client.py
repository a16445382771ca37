"""The slave's side of the roster, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from common.errors import LayerwiseError
from common.messages import HeartbeatReply, HeartbeatRequest, Telemetry
from common.rpc import async_call
from common.wire.methods import HEARTBEAT
from slave.links import Patience

# Between two heartbeats of a slave whose layer is done.
DONE_SECONDS = 0.2


class Heart:
    """Heartbeats of one lease.

    Args:
        channel: to the master. incarnation: of the lease. seconds: between two beats.
        telemetry: what the slave has done so far.
        inbox: takes the `HeartbeatReply` that says that the run is over.
        patience: for a master that is away.
    """

    def __init__(
        self,
        channel: Any,
        incarnation: int,
        seconds: float,
        telemetry: Callable[[], Telemetry],
        inbox: Callable[[object], None],
        patience: Patience,
    ) -> None:
        self._channel = channel
        self._incarnation = incarnation
        self._seconds = seconds
        self._telemetry = telemetry
        self._inbox = inbox
        self._patience = patience
        self._now = asyncio.Event()

    def beat_now(self) -> None:
        """Do not wait for the next beat's time; on the event loop's thread."""
        self._now.set()

    async def run(self) -> None:
        """Beat until cancelled.

        Raises:
            LayerwiseError: the lease has passed to another, or the master has been away for too long.
        """
        beat = 0
        while True:
            beat += 1
            try:
                reply = await self._beat(beat)
                self._patience.reset()
                if reply.over:
                    self._inbox(reply)
            except LayerwiseError as error:
                await self._patience.wait(error)
                continue
            self._now.clear()
            # Once the layer is done, what is waited for is the word that the run is over.
            pause = min(self._seconds, DONE_SECONDS) if self._telemetry().done else self._seconds
            try:
                await asyncio.wait_for(self._now.wait(), pause)
            except TimeoutError:
                continue

    async def _beat(self, beat: int) -> HeartbeatReply:
        request = HeartbeatRequest(self._incarnation, beat, self._telemetry())
        return await async_call(self._channel, HEARTBEAT, request)
