"""One lease's connections, and the side of them that the training thread uses."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from common.errors import LayerwiseError, RefusedError
from common.lifecycle import give_way
from common.net import addresses, control
from common.net.backoff import Backoff
from common.net.data.client import LOCATE_SECONDS
from common.shards.pushes import Header, PushReply
from common.shards.working_copy import Push
from common.wire.messages import DescribeRequest, JoinReply, LeaveRequest, SynthesisMessage, Telemetry
from common.wire.methods import DESCRIBE, LEAVE
from common.wire.payloads import boundary_parts
from slave.network.asking import Asking
from slave.network.client import Heart
from slave.network.dialers import Dialer, MasterDialer, NeighbourDialer
from slave.network.endpoint import Endpoint
from slave.network.links import Boundary, Links
from slave.network.mail import Inbox
from slave.network.meter import Meter
from slave.network.signals import to_wire
from slave.network.transfer import Fetcher, Pusher
from slave.training.decoupling import Message


class Network:
    """One lease's connections. Events come into `inbox`; an error that ends the lease comes there too.

    Args:
        endpoint: of this process. lease: what the master granted.
        heartbeat_seconds: between two heartbeats.
        patience: seconds to go on without the master.
        telemetry: what the slave has done so far; called on the network's thread.
        meter: counts what goes through here.
        boundary: who is above and below.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        lease: JoinReply,
        heartbeat_seconds: float,
        patience: float,
        telemetry: Callable[[], Telemetry],
        meter: Meter,
        boundary: Boundary | None = None,
    ) -> None:
        self.inbox = Inbox()
        self._endpoint = endpoint
        self._boundary = boundary or Boundary()
        self._lease = lease
        self._heartbeat_seconds = heartbeat_seconds
        self._patience = patience
        self._telemetry = telemetry
        self._meter = meter
        self._outgoing: queue.SimpleQueue[Message | SynthesisMessage | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._pusher = Pusher(endpoint.master, lease.incarnation, self._heard, self._backoff())
        self._fetcher = Fetcher(endpoint.master, lease.incarnation, self._heard, meter.pulled)
        self._handing_over = threading.Thread(target=self._hand_over, name="sender", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: list[Any] = []

    def start(self) -> None:
        """Connect, and begin with heartbeats and pushes; the rest begins with `exchange`."""
        self._endpoint.call(self._open())
        self._handing_over.start()
        self._pusher.start()
        self._fetcher.start()

    async def _open(self) -> None:
        # Streams of their own: nothing urgent queues behind something large.
        self._control, self._asked = self._channel(), self._channel()
        put, incarnation = self.inbox.put, self._lease.incarnation
        self._heart = Heart(
            self._control, incarnation, self._heartbeat_seconds, self._telemetry, put, self._backoff()
        )
        self._links = self._build_links()
        self._asking = Asking(self._asked, self._answers.put, self._backoff())
        self._run(self._heart.run())

    def _heard(self, event: object) -> None:
        """Of a thread for shards."""
        if isinstance(event, PushReply):
            self._meter.pushed(event.shard)
        if isinstance(event, BaseException):
            self.deliver(event)
        else:
            self.inbox.put(event)

    def _build_links(self) -> Links:
        neighbours = self._heart.neighbours
        dialer, server = self._dialer(), self._endpoint.server
        return Links(self._lease, self._boundary, dialer, self.inbox, neighbours, server)

    def _dialer(self) -> Dialer:
        """Choose the profile: a slave that listens calls its neighbours above, another one the master."""
        above = [(self._lease.layer + 1, replica) for replica in self._boundary.receivers]
        if self._endpoint.server is not None:
            return NeighbourDialer(above, self._heart.neighbours)
        below = [(self._lease.layer - 1, replica) for replica in self._boundary.senders]
        return MasterDialer([*above, *below], self._located, self._backoff)

    async def _located(self) -> tuple[str, int]:
        """Where the master takes what is large; another one at the same address takes it elsewhere."""
        described = await control.async_call(self._control, DESCRIBE, DescribeRequest(), LOCATE_SECONDS)
        return addresses.split_address(self._endpoint.master)[0], described.bulk_port

    def _channel(self) -> Any:
        channel = control.async_channel(self._endpoint.master)
        self._channels.append(channel)
        return channel

    def _backoff(self) -> Backoff:
        return Backoff(time.monotonic, random.random, patience=self._patience)

    def exchange(self) -> None:
        """Begin with activations and gradients: the trainer is ready for them."""
        self._endpoint.post(lambda: self._run(self._links.run()))

    def converse(self) -> None:
        """Begin with questions to the master's M."""
        self._endpoint.post(lambda: self._run(self._asking.run()))

    def ask(self, question: SynthesisMessage) -> SynthesisMessage:
        """The answer of the master's M; waits for it.

        Raises:
            BaseException: what ended the lease meanwhile, or was delivered.
        """
        self._outgoing.put(question)
        answer = self._answers.get()
        if isinstance(answer, SynthesisMessage):
            return answer
        assert isinstance(answer, BaseException)
        raise answer

    def tell(self, lesson: SynthesisMessage) -> None:
        """Hand a lesson for the master's M over."""
        self._outgoing.put(lesson)

    def deliver(self, event: object) -> None:
        """Have an event come into the inbox, and end a wait for an answer."""
        self._answers.put(event)
        self.inbox.put(event)

    def send(self, message: Message) -> None:
        """Hand a message over."""
        self._outgoing.put(message)

    def push(self, push: Push) -> None:
        """Hand a push over; its reply comes into the inbox."""
        self._meter.pushing(push.header.shard, len(push.buffer))
        self._pusher.push(push)

    def _hand_over(self) -> None:
        """What the training thread says, encoded, to the event loop.

        Waking the loop is a system call, at which the training thread would let go of the interpreter and its
        core; putting something into a queue is not.
        """
        give_way()
        try:
            while (said := self._outgoing.get()) is not None:
                self._hand(said)
        except Exception as error:  # a defect here must end the slave, not leave it silent
            self.deliver(_defect("sender", error))

    def _hand(self, said: Message | SynthesisMessage) -> None:
        if isinstance(said, SynthesisMessage):
            self._endpoint.post(self._asking.send, said)
        else:
            encoded = boundary_parts(to_wire(said, self._boundary.wire))
            self._meter.sent_bytes += sum(len(part) for part in encoded)
            self._endpoint.post(self._links.send, said, encoded)

    def pull(self, shard: str) -> tuple[Header, memoryview]:
        """One version of a shard; waits for it."""
        return self._fetcher.pull(shard)

    def fetch(self, shard: str) -> None:
        """Begin to fetch a version of a shard, beside the training; `Fetched` comes into the inbox."""
        self._fetcher.fetch(shard)

    def beat(self) -> None:
        """Send a heartbeat now."""
        self._endpoint.post(self._heart.beat_now)

    def leave(self, reason: str) -> None:
        """Give the lease back; a master that is gone or has fenced us need not know."""
        request = LeaveRequest(self._lease.incarnation, reason, self._telemetry())
        try:
            self._endpoint.call(control.async_call(self._control, LEAVE, request, 2.0))
        except LayerwiseError:
            return

    def close(self) -> None:
        """End every task and connection, and the threads of this lease."""
        self._pusher.close()
        self._fetcher.close()
        self._outgoing.put(None)
        self._handing_over.join()
        self._endpoint.call(self._close())

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(self._reported(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reported(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except asyncio.CancelledError:
            raise
        except LayerwiseError as error:
            self.deliver(error)
        except Exception as error:  # a defect here must end the slave, not leave it waiting
            self.deliver(_defect("network", error))


def _defect(thread: str, error: Exception) -> RefusedError:
    return RefusedError(f"the {thread} thread failed: {type(error).__name__}: {error}")
