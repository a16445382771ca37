"""The threads that wait on the network, and the side of them that the training thread uses."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from common import rpc
from common.errors import LayerwiseError, RefusedError
from common.messages import BoundaryKind, Header, JoinReply, LeaveRequest, Telemetry
from common.wire.methods import LEAVE
from common.wire.payloads import encode_boundary
from slave.client import Heart
from slave.decoupling import Message
from slave.links import LightLinks, Patience, to_wire
from slave.replica import Push
from slave.transfer import Fetcher, Pusher

Result = TypeVar("Result")


class Network:
    """One lease's connections. Events come into `inbox`; an error that ends the lease comes there too.

    Args:
        master: HOST:PORT. lease: what the master granted.
        heartbeat_seconds: between two heartbeats.
        patience: seconds to go on without the master.
        telemetry: what the slave has done so far; called on the network's thread.
    """

    def __init__(
        self,
        master: str,
        lease: JoinReply,
        heartbeat_seconds: float,
        patience: float,
        telemetry: Callable[[], Telemetry],
    ) -> None:
        self.inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._master = master
        self._lease = lease
        self._heartbeat_seconds = heartbeat_seconds
        self._patience = patience
        self._telemetry = telemetry
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._pusher = Pusher(master, self.inbox.put, self._wait())
        self._fetcher = Fetcher(master, lease.incarnation, self.inbox.put)
        self._handing_over = threading.Thread(target=self._hand_over, name="sender", daemon=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Connect, and begin with heartbeats and pushes; the rest begins with `exchange`."""
        self._thread.start()
        self._call(self._open())
        self._handing_over.start()
        self._pusher.start()
        self._fetcher.start()

    async def _open(self) -> None:
        # Streams of their own: nothing urgent queues behind something large.
        self._control, self._up, self._down = (rpc.async_channel(self._master) for _ in range(3))
        put, incarnation = self.inbox.put, self._lease.incarnation
        self._heart = Heart(
            self._control, incarnation, self._heartbeat_seconds, self._telemetry, put, self._wait()
        )
        channels = {BoundaryKind.ACTIVATIONS: self._up, BoundaryKind.GRADIENTS: self._down}
        self._links = LightLinks(channels, incarnation, put, self._wait())
        self._run(self._heart.run())

    def _wait(self) -> Patience:
        return Patience(self._patience, time.monotonic)

    def exchange(self) -> None:
        """Begin with activations and gradients: the trainer is ready for them."""
        self._loop.call_soon_threadsafe(lambda: self._run(self._links.run()))

    def send(self, message: Message) -> None:
        """Hand a message over."""
        self._outgoing.put(message)

    def push(self, push: Push) -> None:
        """Hand a push over; its reply comes into the inbox."""
        self._pusher.push(push)

    def _hand_over(self) -> None:
        """What the training thread says, encoded, to the event loop.

        Waking the loop is a system call, at which the training thread would let go of the interpreter and its
        core; putting something into a queue is not.
        """
        while (said := self._outgoing.get()) is not None:
            encoded = encode_boundary(to_wire(said))
            self._loop.call_soon_threadsafe(self._links.send, said.kind, encoded)

    def pull(self, shard: str) -> tuple[Header, memoryview]:
        """One version of a shard; waits for it."""
        return self._fetcher.pull(shard)

    def fetch(self, shard: str) -> None:
        """Begin to fetch a version of a shard, beside the training; `Fetched` comes into the inbox."""
        self._fetcher.fetch(shard)

    def beat(self) -> None:
        """Send a heartbeat now."""
        self._loop.call_soon_threadsafe(self._heart.beat_now)

    def leave(self, reason: str) -> None:
        """Give the lease back; a master that is gone or has fenced us need not know."""
        request = LeaveRequest(self._lease.incarnation, reason, self._telemetry())
        try:
            self._call(rpc.async_call(self._control, LEAVE, request, 2.0))
        except LayerwiseError:
            return

    def close(self) -> None:
        """End every task and connection, and the threads."""
        self._pusher.close()
        self._fetcher.close()
        self._outgoing.put(None)
        self._handing_over.join()
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in (self._control, self._up, self._down):
            await channel.close()

    def _call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

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
            self.inbox.put(error)
        except Exception as error:  # a defect here must end the slave, not leave it waiting
            self.inbox.put(RefusedError(f"the network thread failed: {type(error).__name__}: {error}"))
