"""Shards to the master and back: a thread and a connection for pushes, and for fetches."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from common.errors import LayerwiseError, RefusedError, UnreachableError
from common.lifecycle import give_way
from common.net.backoff import Backoff
from common.net.data.client import Call, DataClient, locate, pull
from common.shards.pushes import Header, PullRequest
from common.shards.working_copy import Push
from common.wire.methods import PUSH
from common.wire.payloads import frame_parts, frames

# In which a push is answered or a pull is whole, beside a second for each of so many bytes.
ANSWER_SECONDS = 60.0
SLOWEST = 1 << 20
PULL_SECONDS = 300.0

Handed = TypeVar("Handed")


@dataclass(frozen=True)
class Fetched:
    """A version of a shard that was asked for; without a header the master could not be reached."""

    shard: str
    header: Header | None = None
    buffer: memoryview = memoryview(b"")


class _Thread(ABC, Generic[Handed]):
    """A thread that works on what it is handed, with a channel of its own."""

    def __init__(self, master: str, incarnation: int, inbox: Callable[[object], None], name: str) -> None:
        self._client = DataClient(lambda: locate(master), incarnation)
        self._inbox = inbox
        self._handed: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._reported, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End it, whatever is under way."""
        self._stop.set()
        self._client.interrupt()
        self._handed.put(None)
        self._thread.join()
        self._client.drop()

    @abstractmethod
    def _work(self) -> None:
        """Until it is to stop; an error that it raises ends the lease."""

    def _reported(self) -> None:
        give_way()
        try:
            self._work()
        except LayerwiseError as error:
            if not self._stop.is_set():
                self._inbox(error)
        except Exception as error:  # a defect here must end the slave, not leave it waiting
            self._inbox(RefusedError(f"a thread for shards failed: {type(error).__name__}: {error}"))


class Pusher(_Thread[Push]):
    """Pushes of one lease, one after the other; what was not answered when a connection broke is sent again.

    Args:
        master: HOST:PORT. incarnation: of the lease.
        inbox: takes each `PushReply`, and the error that ends the lease.
        backoff: for a master that is away.
    """

    def __init__(
        self, master: str, incarnation: int, inbox: Callable[[object], None], backoff: Backoff
    ) -> None:
        super().__init__(master, incarnation, inbox, "pusher")
        self._backoff = backoff

    def push(self, push: Push) -> None:
        """Hand a push over."""
        self._handed.put(push)

    def _work(self) -> None:
        push: Push | None = None
        while not self._stop.is_set():
            try:
                with self._client.call(PUSH) as call:
                    push = push or self._handed.get()
                    while push is not None:
                        self._send(call, push)
                        push = self._handed.get()
            except LayerwiseError as error:
                if self._stop.wait(self._backoff.delay_after(error)):
                    return

    def _send(self, call: Call, push: Push) -> None:
        for frame in frames(push.header, push.buffer.data):
            call.send(*frame_parts(frame))
        encoded = call.read(ANSWER_SECONDS + push.header.table.nbytes / SLOWEST)
        if encoded is None:
            raise UnreachableError("the master ended the stream of pushes")
        self._backoff.reset()
        self._inbox(PUSH.reply.decode(bytes(encoded)))


class Fetcher(_Thread[str]):
    """Fetches of one lease.

    Args:
        master: HOST:PORT. incarnation: of the lease.
        inbox: takes each `Fetched`, and the error that ends the lease.
        pulled: told when each pull began, by `time.perf_counter`, and how many bytes came.
    """

    def __init__(
        self,
        master: str,
        incarnation: int,
        inbox: Callable[[object], None],
        pulled: Callable[[float, int], None],
    ) -> None:
        super().__init__(master, incarnation, inbox, "fetcher")
        self._incarnation = incarnation
        self._pulled = pulled
        self._lock = threading.Lock()

    def fetch(self, shard: str) -> None:
        """Begin to fetch a version of a shard, beside what is asked for otherwise."""
        self._handed.put(shard)

    def pull(self, shard: str) -> tuple[Header, memoryview]:
        """One version of a shard; waits for it.

        Raises:
            NotFoundError: there is no such shard.
            LayerwiseError: the pull failed otherwise.
        """
        with self._lock:
            began = time.perf_counter()
            header, buffer = pull(self._client, PullRequest(shard, self._incarnation), PULL_SECONDS)
            self._pulled(began, buffer.nbytes)
            return header, buffer

    def _work(self) -> None:
        while (shard := self._handed.get()) is not None:
            try:
                header, buffer = self.pull(shard)
            except UnreachableError:
                self._inbox(Fetched(shard))
            else:
                self._inbox(Fetched(shard, header, buffer))
