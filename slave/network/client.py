"""Slave's side of the roster, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from common.credentials import Credentials
from common.errors import LayerwiseError
from common.net.backoff import Backoff
from common.net.control import async_call
from common.wire.messages import HeartbeatRequest, Telemetry
from common.wire.methods import HEARTBEAT
from slave.network.neighbours import Neighbours

# Between two heartbeats of a slave that waits to begin, for a neighbour, or for the end of the run.
EAGER_SECONDS = 0.2


class Heart:
    """Heartbeats of one lease.

    Args:
        channel: to the master.
        shown: credentials of the lease.
        seconds: between two beats.
        telemetry: returns the slave's telemetry.
        inbox: takes every `HeartbeatReply` with an order.
        backoff: for a master that is away.
        on_answer: called for every answer.

    Attributes:
        neighbours: named by the master.
    """

    def __init__(
        self,
        channel: Any,
        shown: Credentials,
        seconds: float,
        telemetry: Callable[[], Telemetry],
        inbox: Callable[[object], None],
        backoff: Backoff,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._channel = channel
        self._shown = shown
        self._seconds = seconds
        self._telemetry = telemetry
        self._inbox = inbox
        self._backoff = backoff
        self._on_answer = on_answer
        self._now = asyncio.Event()
        self.neighbours = Neighbours(self.beat_now)

    def beat_now(self) -> None:
        """Send the next heartbeat at once; on the event loop's thread."""
        self._now.set()

    async def run(self) -> None:
        """Beat until cancelled.

        Raises:
            LayerwiseError: the lease has passed to another, or the master has been away for too long.
        """
        beat = 0
        while True:
            beat += 1
            began = asyncio.get_running_loop().time()
            telemetry = self._telemetry()
            try:
                request = HeartbeatRequest(self._shown.incarnation, beat, telemetry, self.neighbours.version)
                reply = await async_call(self._channel, HEARTBEAT, request, shown=self._shown)
                self._backoff.reset()
                self._on_answer()
                self.neighbours.learn(reply.peers_version, reply.peers)
                if reply.over or reply.begin or reply.stop:
                    self._inbox(reply)
            except LayerwiseError as error:
                # A longer pause could outlast the lease.
                await asyncio.sleep(min(self._backoff.delay_after(error), self._seconds))
                continue
            self._now.clear()
            eager = telemetry.done or not telemetry.steps or self.neighbours.wanted
            # From beat to beat: the time of an answer on a slow link is not added to the silence.
            due = began + (min(self._seconds, EAGER_SECONDS) if eager else self._seconds)
            pause = max(due - asyncio.get_running_loop().time(), EAGER_SECONDS / 10)
            try:
                await asyncio.wait_for(self._now.wait(), pause)
            except TimeoutError:
                continue
