"""The slave's side of the roster and of the parameter service, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from common.assembly import Whole
from common.errors import LayerwiseError, UnreachableError
from common.messages import Header, HeartbeatRequest, PullRequest, PushReply, Telemetry
from common.replica import Push
from common.rpc import async_call, async_stream, error_of
from common.wire.methods import HEARTBEAT, PULL, PUSH
from common.wire.payloads import frames
from slave.links import Patience
from slave.neighbours import Neighbours

# Between two heartbeats of a slave that waits for news: to begin, a neighbour out of reach, the run's end.
EAGER_SECONDS = 0.2


async def pull(channel: Any, shard: str, incarnation: int) -> tuple[Header, memoryview]:
    """One consistent version of a shard.

    Raises:
        NotFoundError: there is no such shard.
        LayerwiseError: the pull failed otherwise.
    """
    call = channel.unary_stream(PULL.path, PULL.request.encode, PULL.reply.decode)(
        PullRequest(shard, incarnation)
    )
    whole = Whole()
    try:
        async for frame in call:
            whole.add(frame)
    except grpc.RpcError as error:
        raise error_of(error, PULL) from None
    return whole.taken()


class Pusher:
    """Pushes of one lease over one stream; one that was not answered is sent again on the next stream."""

    def __init__(self, channel: Any, inbox: Callable[[object], None], patience: Patience) -> None:
        self._channel = channel
        self._inbox = inbox
        self._patience = patience
        self._unanswered: dict[str, Push] = {}
        self._outgoing: asyncio.Queue[Push] = asyncio.Queue()

    def push(self, push: Push) -> None:
        """Hand a push over; on the event loop's thread."""
        self._unanswered[push.header.shard] = push
        self._outgoing.put_nowait(push)

    async def run(self) -> None:
        """Keep the stream open until cancelled.

        Raises:
            LayerwiseError: the push was refused, or the master has been away for too long.
        """
        while True:
            error: LayerwiseError = UnreachableError("the master closed the stream")
            try:
                await self._stream()
            except grpc.RpcError as failure:
                error = error_of(failure, PUSH)
            await self._patience.wait(error)

    async def _stream(self) -> None:
        self._outgoing = asyncio.Queue()
        for push in self._unanswered.values():
            self._outgoing.put_nowait(push)
        call = async_stream(self._channel, PUSH)
        sending = asyncio.ensure_future(self._transmit(call))
        try:
            while isinstance(reply := await call.read(), PushReply):
                self._patience.reset()
                self._unanswered.pop(reply.shard, None)
                self._inbox(reply)
        finally:
            sending.cancel()
            call.cancel()

    async def _transmit(self, call: Any) -> None:
        while True:
            push = await self._outgoing.get()
            for frame in frames(push.header, push.buffer.data):
                await call.write(frame)


class Heart:
    """Heartbeats of one lease.

    Args:
        channel: to the master. incarnation: of the lease. seconds: between two beats.
        telemetry: what the slave has done so far.
        inbox: takes each `HeartbeatReply` that says something.
        patience: for a master that is away.

    Attributes:
        neighbours: as the master last named them.
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
        self.neighbours = Neighbours(self.beat_now)

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
            began = asyncio.get_running_loop().time()
            telemetry = self._telemetry()
            try:
                request = HeartbeatRequest(self._incarnation, beat, telemetry, self.neighbours.version)
                reply = await async_call(self._channel, HEARTBEAT, request)
                self._patience.reset()
                self.neighbours.learn(reply.peers_version, reply.peers)
                if reply.over or reply.begin or reply.stop:
                    self._inbox(reply)
            except LayerwiseError as error:
                await self._patience.wait(error)
                continue
            self._now.clear()
            eager = telemetry.done or not telemetry.steps or self.neighbours.wanted
            # From beat to beat: what the answer took, on a slow link, is not added to the silence.
            due = began + (min(self._seconds, EAGER_SECONDS) if eager else self._seconds)
            pause = max(due - asyncio.get_running_loop().time(), EAGER_SECONDS / 10)
            try:
                await asyncio.wait_for(self._now.wait(), pause)
            except TimeoutError:
                continue
