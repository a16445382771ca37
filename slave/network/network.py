"""Connections of one lease, for the training thread."""

from __future__ import annotations

import asyncio
import math
import queue
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from common.credentials import Credentials
from common.errors import LayerwiseError, RunFailedError
from common.lifecycle import give_way
from common.net import addresses, control
from common.net.access import Role
from common.net.backoff import Backoff
from common.net.data.client import LOCATE_SECONDS
from common.shards.pushes import Header, PushReply
from common.shards.working_copy import Push
from common.signals.values import is_finite
from common.supervision import SupervisedThread, describe
from common.wire.boundary import Message, Ready
from common.wire.curriculum import Score
from common.wire.messages import DescribeRequest, JoinReply, LeaveRequest, SynthesisMessage, Telemetry
from common.wire.methods import DESCRIBE, LEAVE, LOCATE, PLACE
from common.wire.payloads import boundary_parts
from common.wire.signals import to_wire
from common.wire.stages import Promise
from common.wire.stores import LocateRequest, PlaceRequest
from slave.network.asking import Asking
from slave.network.client import Heart
from slave.network.dialers import Dialer, MasterDialer, NeighbourDialer
from slave.network.endpoint import Endpoint
from slave.network.lines import Line, Lines
from slave.network.links import Links
from slave.network.mail import Inbox
from slave.network.meter import Meter
from slave.network.pair import Boundary
from slave.network.transfer import Fetcher, Pusher
from slave.training.device import Leaving
from slave.training.worker import Fetch, Fetched


class Network:
    """Connections of a lease. Events come into `inbox`, as does the error that ends the lease.

    Args:
        endpoint: of this process.
        lease: granted by the master.
        heartbeat_seconds: between two heartbeats.
        patience: seconds to go on without the master.
        telemetry: returns the slave's telemetry; called on the network's thread.
        meter: counts bytes and pushes.
        boundary: the neighbours and the bounds.
        scores: returns the scores of layer K; called as `telemetry`.
        promise: returns the answer to the master's question; called as `telemetry`.
        in_stores: whether stores keep the shards, rather than the master.
        neighbours_patience: see `NeighbourDialer`.
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
        scores: Callable[[], list[Score]] = list,
        promise: Callable[[], Promise] = Promise,
        *,
        in_stores: bool = False,
        neighbours_patience: float = math.inf,
    ) -> None:
        self._neighbours_patience = neighbours_patience
        self._in_stores = in_stores
        self.inbox = Inbox()
        self._endpoint = endpoint
        self._boundary = boundary or Boundary()
        self._lease = lease
        self._heartbeat_seconds = heartbeat_seconds
        self._patience = patience
        self._telemetry = telemetry
        self._scores = scores
        self._promise = promise
        self._meter = meter
        self._outgoing: queue.SimpleQueue[Message | Leaving | SynthesisMessage | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._shown = Credentials(lease.incarnation, lease.secret)
        self._lines = Lines(self._find_store, self._open_line)
        self._handing_over = SupervisedThread(self._hand_over, "sender")
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: list[Any] = []

    def start(self) -> None:
        """Connect, and begin heartbeats, pushes and fetches."""
        self._endpoint.call(self._open())
        self._handing_over.start()
        if not self._in_stores:
            self._lines.open("")

    async def _open(self) -> None:
        # Separate channels: an urgent call never queues behind a large one.
        self._control, self._asked = self._channel(), self._channel()
        self._heart = Heart(
            self._control,
            self._shown,
            self._heartbeat_seconds,
            self._telemetry,
            self.inbox.put,
            self._backoff(),
            self._endpoint.on_answer,
            self._lease.curriculum.decided,
            self._scores,
            self._promise,
            self._channel(),
        )
        self._links = self._build_links()
        self._asking = Asking(self._asked, self._shown, self._answers.put, self._backoff())
        self._run(self._heart.run())

    def _open_line(self, shard: str) -> Line:
        master, shown = self._endpoint.master, self._shown
        own = self._endpoint.identity, self._endpoint.run, shard if self._in_stores else ""
        return Line(
            Pusher(master, shown, self._take_event, self._backoff(), *own),
            Fetcher(master, shown, self._take_event, self._meter.pulled, *own),
        )

    def _find_store(self, shard: str, nbytes: int | None) -> int:
        """Ask the master for the store of a shard; with `nbytes`, have the shard dealt to one.

        Raises:
            NotFoundError: the shard has not been dealt out.
            LayerwiseError: the master does not answer, or the lease has ended.
        """
        if not self._in_stores:
            return 0
        if nbytes is None:
            asked = control.async_call(self._control, LOCATE, LocateRequest(shard), LOCATE_SECONDS)
        else:
            request = PlaceRequest(self._lease.incarnation, shard, nbytes)
            asked = control.async_call(self._control, PLACE, request, LOCATE_SECONDS, self._shown)
        return self._endpoint.call(asked).store

    def _take_event(self, event: object) -> None:
        """Take an event of a thread for shards."""
        if isinstance(event, PushReply):
            self._meter.pushed(event.shard)
        if isinstance(event, BaseException):
            self.deliver(event)
        else:
            self.inbox.put(event)

    def _build_links(self) -> Links:
        neighbours = self._heart.neighbours
        dialer, server = self._dialer(), self._endpoint.server
        return Links(self._lease, self._boundary, dialer, self.inbox, neighbours, server, self._meter.refused)

    def _dialer(self) -> Dialer:
        """Choose the profile: a slave that listens calls the neighbours above, else the master."""
        far, k = self._boundary.far, self._lease.layer
        above = [(k + 1, replica) for replica in self._boundary.receivers]
        above += [seat for seat in far if seat[0] > k]
        if self._endpoint.server is not None:
            tls = self._endpoint.tls(Role.SLAVE)
            return NeighbourDialer(above, self._heart.neighbours, tls, self._neighbours_patience)
        below = [(k - 1, replica) for replica in self._boundary.senders]
        below += [seat for seat in far if seat[0] < k]
        tls = self._endpoint.tls(Role.MASTER)
        return MasterDialer([*above, *below], self._locate, self._backoff, self._shown, tls)

    async def _locate(self) -> tuple[str, int]:
        """Ask the master for host and port of the data plane, which a restart may change."""
        described = await control.async_call(self._control, DESCRIBE, DescribeRequest(), LOCATE_SECONDS)
        return addresses.split_address(self._endpoint.master)[0], described.bulk_port

    def _channel(self) -> Any:
        channel = control.async_channel(self._endpoint.master, self._endpoint.identity)
        self._channels.append(channel)
        return channel

    def _backoff(self) -> Backoff:
        return Backoff(time.monotonic, random.random, patience=self._patience)

    def exchange(self, admit: Callable[[Message], None]) -> None:
        """Begin to exchange activations and gradients: the trainer is ready.

        Args:
            admit: raises MalformedError for a message that the layer cannot use, on the network's thread.
        """
        self._links.admit = admit
        self._endpoint.post(lambda: self._run(self._links.run()))

    def converse(self) -> None:
        """Open the stream to the master's M and I."""
        self._endpoint.post(lambda: self._run(self._asking.run()))

    def ask(self, question: SynthesisMessage) -> SynthesisMessage:
        """Ask the master's M or I, and wait for the answer.

        Raises:
            BaseException: the error that ended the lease meanwhile, or the delivered event.
        """
        self._outgoing.put(question)
        answer = self._answers.get()
        if isinstance(answer, SynthesisMessage):
            return answer
        assert isinstance(answer, BaseException)
        raise answer

    def tell(self, lesson: SynthesisMessage) -> None:
        """Hand over a lesson for the master's M or I."""
        self._outgoing.put(lesson)

    def deliver(self, event: object) -> None:
        """Put an event into the inbox, and end a wait for an answer."""
        self._answers.put(event)
        self.inbox.put(event)

    def send(self, message: Message | Leaving) -> None:
        """Hand over a message for a neighbour."""
        self._outgoing.put(message)

    def resume(self, ready: Ready) -> None:
        """Send to a neighbour above again, since the training thread has taken a `Ready`."""
        self._outgoing.put(ready)

    def place(self, shard: str, nbytes: int) -> None:
        """Have a shard dealt to a store, where stores keep them: its creation then asks no master.

        Raises:
            LayerwiseError: the master does not answer, or the lease has ended.
        """
        self._lines.open(shard, nbytes)

    def push(self, push: Push) -> None:
        """Hand over a push; the reply comes into the inbox."""
        self._meter.pushing(push.header.shard, len(push.buffer))
        self._lines.push(push)

    def _hand_over(self) -> None:
        """Encode the messages of the training thread, and pass them on to the event loop.

        Waking the loop takes a system call, at which the training thread would give up the interpreter and
        the core; putting a message into a queue takes no system call.
        """
        give_way()
        try:
            while (message := self._outgoing.get()) is not None:
                self._pass_on(message)
        except LayerwiseError as error:
            self.deliver(error)
        except Exception as error:  # a defect here must end the slave, not leave it silent
            self.deliver(_defect("sender", error))

    def _pass_on(self, message: Message | Leaving | SynthesisMessage) -> None:
        if isinstance(message, SynthesisMessage):
            self._endpoint.post(self._asking.send, message)
        elif isinstance(message, Ready):
            self._endpoint.post(self._links.resume, message)
        else:
            message = message.wait() if isinstance(message, Leaving) else message
            self._check_finite(message)
            encoded = boundary_parts(to_wire(message, self._boundary.wire))
            self._meter.sent_bytes += sum(len(part) for part in encoded)
            self._endpoint.post(self._links.send, message, encoded)

    def _check_finite(self, message: Message) -> None:
        """Check the numbers of this layer before a neighbour refuses them.

        Raises:
            RunFailedError: a NaN or an infinity.
        """
        for attribute, signal in message.carried().items():
            if not is_finite(signal):
                raise RunFailedError(
                    f"layer {self._lease.layer}: {message.kind.name} of batch {message.batch} has NaN or Inf "
                    f"in {message.signals[attribute]}: training has diverged; lower optimizer.learning_rate"
                )

    def pull(self, shard: str) -> tuple[Header, memoryview]:
        """Pull one version of a shard, and wait for the last byte.

        Raises:
            NotFoundError: there is no shard of the name.
            BaseException: another failure, the error that ended the lease meanwhile, or a delivered event.
        """
        self._lines.pull(shard, self._answers.put)
        answer = self._answers.get()
        if isinstance(answer, Fetched):
            assert answer.header is not None
            return answer.header, memoryview(answer.buffer)
        assert isinstance(answer, BaseException)
        raise answer

    def fetch(self, fetch: Fetch) -> None:
        """Begin to fetch a version of a shard beside the training; `Fetched` comes into the inbox."""
        self._lines.fetch(fetch)

    def beat(self) -> None:
        """Send a heartbeat now."""
        self._endpoint.post(self._heart.beat_now)

    def leave(self, reason: str) -> None:
        """Give the lease back, if the master is there and has not fenced the slave."""
        request = LeaveRequest(self._lease.incarnation, reason, self._telemetry())
        try:
            self._endpoint.call(control.async_call(self._control, LEAVE, request, 2.0, self._shown))
        except LayerwiseError:
            return

    def close(self) -> None:
        """End every task and connection, and the threads of this lease."""
        self._lines.close()
        self._outgoing.put(None)
        if self._handing_over.is_alive():
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
        task = asyncio.ensure_future(self._report_errors(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report_errors(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except asyncio.CancelledError:
            raise
        except LayerwiseError as error:
            self.deliver(error)
        except Exception as error:  # a defect here must end the slave, not leave it waiting
            self.deliver(_defect("network", error))


def _defect(thread: str, error: Exception) -> LayerwiseError:
    return LayerwiseError(f"the {thread} thread failed: {describe(error)}; start the slave again")
