"""Slave's side of the roster, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from common.config.data import BLOCK
from common.credentials import Credentials
from common.errors import LayerwiseError, UnreachableError
from common.net import control
from common.net.backoff import Backoff
from common.net.control import async_call
from common.net.tasks import cancel
from common.wire.curriculum import Score
from common.wire.messages import HeartbeatReply, HeartbeatRequest, Telemetry
from common.wire.methods import HEARTBEAT
from common.wire.stages import Promise
from slave.network.neighbours import Neighbours

# Between two heartbeats of a slave that waits to begin, for a neighbour, or for the end of the run.
EAGER_SECONDS = 0.2
# Likewise of a slave that is about to wait for the level of its next batch.
LEVEL_SECONDS = 0.05
# A heartbeat without an answer for so many intervals, and so long, is sent over another connection, too.
DOUBT_BEATS, DOUBT_SECONDS = 2, 2.0
# A call is given up after twice that.
LONGEST_DOUBT_SECONDS = control.UNARY_SECONDS / 2


class Heart:
    """Heartbeats of one lease.

    Args:
        channel: to the master.
        shown: credentials of the lease.
        seconds: between two beats.
        telemetry: returns the slave's telemetry.
        inbox: takes every `HeartbeatReply` with an order, with a change of orders, or with further levels.
        backoff: for a master that is away.
        on_answer: called for every answer.
        decided: number of batches whose level the slave knows; 0: no example becomes harder.
        scores: returns the scores of layer K.
        promise: returns the answer to the master's question.
        spare: another channel to the master, which connects when it is first used; None: there is none.

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
        decided: int = 0,
        scores: Callable[[], list[Score]] = list,
        promise: Callable[[], Promise] = Promise,
        spare: Any = None,
    ) -> None:
        self._channel = channel
        self._spare = spare
        self._shown = shown
        self._seconds = seconds
        self._telemetry = telemetry
        self._inbox = inbox
        self._backoff = backoff
        self._on_answer = on_answer
        self._decided = decided
        self._scores = scores
        self._promise = promise
        # Question, end and return of the lease that the master named last.
        self._orders = (0, 0, False)
        self._now = asyncio.Event()
        self.neighbours = Neighbours(self.beat_now)

    def beat_now(self) -> None:
        """Send the next heartbeat at once; on the event loop's thread."""
        self._now.set()

    def _pause(self, telemetry: Telemetry) -> float:
        """Return the seconds until the next beat, at most those between two beats."""
        changing = any(self._orders)
        if telemetry.done or not telemetry.steps or self.neighbours.wanted or changing:
            return EAGER_SECONDS
        # In the last block that has a level, the next block's level is about to be decided.
        if self._decided and telemetry.next_batch >= self._decided - BLOCK:
            return LEVEL_SECONDS
        return self._seconds

    async def _ask(self, request: HeartbeatRequest) -> HeartbeatReply:
        """Send a heartbeat; where no answer comes, also over the spare channel, which stays if it is quicker.

        A box on the way may have forgotten a connection, and drop all that comes. The library gives such a
        connection up after ten to twenty seconds: too late for most leases.
        """
        calls = [self._call(self._channel, request)]
        try:
            doubt = min(max(DOUBT_SECONDS, DOUBT_BEATS * self._seconds), LONGEST_DOUBT_SECONDS)
            done, _ = await asyncio.wait(calls, timeout=doubt)
            if not done and self._spare is not None:
                calls.append(self._call(self._spare, request))
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                # A master that refuses has answered, too.
                if calls[1].done() and not isinstance(calls[1].exception(), UnreachableError):
                    self._channel, self._spare = self._spare, self._channel
                    return calls[1].result()
            return await calls[0]
        finally:
            await cancel(calls)

    def _call(self, channel: Any, request: HeartbeatRequest) -> asyncio.Task[HeartbeatReply]:
        return asyncio.ensure_future(async_call(channel, HEARTBEAT, request, shown=self._shown))

    async def run(self) -> None:
        """Beat until cancelled.

        Raises:
            LayerwiseError: the lease has passed to another, or the master has been away for too long.
        """
        beat = 0
        while True:
            beat += 1
            began = asyncio.get_running_loop().time()
            # Before the telemetry is read: what is to be told from here on takes a further beat.
            self._now.clear()
            telemetry = self._telemetry()
            try:
                request = HeartbeatRequest(
                    self._shown.incarnation,
                    beat,
                    telemetry,
                    self.neighbours.version,
                    self._scores(),
                    self._promise(),
                )
                reply = await self._ask(request)
                self._backoff.reset()
                self._on_answer()
                self.neighbours.learn(reply.peers_version, reply.peers)
                further = reply.curriculum.decided > self._decided
                orders = (reply.hold, reply.end, reply.rejoin)
                # Again and again: a slave that opens its lease forgets what comes meanwhile.
                ordered = any(orders) or orders != self._orders
                if reply.over or reply.begin or reply.stop or further or ordered:
                    self._orders = orders
                    self._decided = max(self._decided, reply.curriculum.decided)
                    self._inbox(reply)
            except LayerwiseError as error:
                # A longer pause could outlast the lease.
                await asyncio.sleep(min(self._backoff.delay_after(error), self._seconds))
                continue
            # From beat to beat: the time of an answer on a slow link is not added to the silence.
            due = began + min(self._seconds, self._pause(telemetry))
            pause = max(due - asyncio.get_running_loop().time(), EAGER_SECONDS / 10)
            try:
                await asyncio.wait_for(self._now.wait(), pause)
            except TimeoutError:
                continue
