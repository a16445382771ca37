"""Pushes and fetches of shards, on two threads with a connection each."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from common.credentials import Credentials
from common.errors import LayerwiseError, UnreachableError
from common.lifecycle import give_way
from common.net.access import Role
from common.net.backoff import Backoff
from common.net.data.client import Call, DataClient, locate, pull
from common.net.identity import Identity, tls_for
from common.shards.pushes import Header, PullRequest
from common.shards.working_copy import Push
from common.supervision import SupervisedThread, describe
from common.wire.methods import PUSH
from common.wire.payloads import frame_parts, frames
from slave.training.worker import Fetched

# Bound of a push's answer, beside a second for every SLOWEST bytes.
ANSWER_SECONDS = 60.0
SLOWEST = 1 << 20
# Longest standstill of a pull.
STALLED_SECONDS = 60.0
# Bound of a close's wait for a thread that tries to connect; the attempt then ends by itself.
CLOSE_SECONDS = 0.5

Work = TypeVar("Work")


class _Thread(ABC, Generic[Work]):
    """Thread that works on a queue, with a dedicated client."""

    def __init__(
        self,
        master: str,
        shown: Credentials,
        inbox: Callable[[object], None],
        name: str,
        identity: Identity | None,
        run: str,
        shard: str,
    ) -> None:
        tls = tls_for(identity, Role.STORE if shard else Role.MASTER, run)
        self._client = DataClient(lambda: locate(master, identity, shard), shown, tls)
        self._inbox = inbox
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = SupervisedThread(self._report_errors, name)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, and the call under way."""
        self._stop.set()
        self._client.interrupt()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    @abstractmethod
    def _work(self) -> None:
        """Work until the thread is to stop; an error ends the lease."""

    def _report_errors(self) -> None:
        give_way()
        try:
            self._work()
        except LayerwiseError as error:
            if not self._stop.is_set():
                self._inbox(error)
        except Exception as error:  # a defect here must end the slave, not leave it waiting
            self._inbox(LayerwiseError(f"the {self._thread.name} thread failed: {describe(error)}"))
        finally:
            self._client.drop()


class Pusher(_Thread[Push]):
    """Pushes of one lease in order; a push without an answer is sent again after a broken connection.

    Args:
        master: HOST:PORT.
        shown: credentials of the lease.
        inbox: takes every `PushReply`, and the error that ends the lease.
        backoff: for a master that is away.
        identity: certificates; None: in the clear.
        run: name of the run, for the role in the peer's certificate.
        shard: a shard of the store that takes the pushes; empty: the master does.
    """

    def __init__(
        self,
        master: str,
        shown: Credentials,
        inbox: Callable[[object], None],
        backoff: Backoff,
        identity: Identity | None = None,
        run: str = "",
        shard: str = "",
    ) -> None:
        super().__init__(master, shown, inbox, "pusher", identity, run, shard)
        self._backoff = backoff

    def push(self, push: Push) -> None:
        """Hand over a push."""
        self._queue.put(push)

    def _work(self) -> None:
        push: Push | None = None
        while not self._stop.is_set():
            try:
                with self._client.call(PUSH) as call:
                    push = push or self._queue.get()
                    while push is not None:
                        self._send(call, push)
                        push = self._queue.get()
            except LayerwiseError as error:
                if self._stop.wait(self._backoff.delay_after(error)):
                    return

    def _send(self, call: Call, push: Push) -> None:
        for frame in frames(push.header, push.buffer.data):
            call.send(*frame_parts(frame))
        encoded = call.read(ANSWER_SECONDS + push.header.nbytes / SLOWEST)
        if encoded is None:
            raise UnreachableError("the stream of pushes was ended at the other side")
        self._backoff.reset()
        self._inbox(PUSH.reply.decode(bytes(encoded)))


# Takes the result of a pull, or the error.
Taker = Callable[[object], None]


@dataclass(frozen=True)
class _Pull:
    """Pull to be done.

    Attributes:
        shard: to pull.
        taker: takes the result.
        urgent: the taker waits, and is told of a master that is away; a fetch is asked again in its time.
        fragment: number of the fragment, of `fragments`; 0 fragments: the whole.
    """

    shard: str
    taker: Taker
    urgent: bool
    fragment: int = 0
    fragments: int = 0


class Fetcher(_Thread[_Pull]):
    """Pulls of one lease, each on this thread: a slave that is to stop waits for none.

    Args:
        master: HOST:PORT.
        shown: credentials of the lease.
        inbox: takes every `Fetched`, and the error that ends the lease.
        on_pull: takes the start of each pull, by `time.perf_counter`, and the number of bytes.
        identity: certificates; None: in the clear.
        run: as for `Pusher`.
        shard: as for `Pusher`.
    """

    def __init__(
        self,
        master: str,
        shown: Credentials,
        inbox: Callable[[object], None],
        on_pull: Callable[[float, int], None],
        identity: Identity | None = None,
        run: str = "",
        shard: str = "",
    ) -> None:
        super().__init__(master, shown, inbox, "fetcher", identity, run, shard)
        self._incarnation = shown.incarnation
        self._on_pull = on_pull
        # The last fetch's memory, by shard: large memory that is new each time costs more than its bytes.
        self._rooms: dict[tuple[str, int], memoryview] = {}

    def fetch(self, shard: str, fragment: int = 0, fragments: int = 0) -> None:
        """Begin to fetch a version of a shard; `Fetched` comes into the inbox.

        The buffer is valid until the next fetch of the shard, which overwrites the memory.
        """
        self._queue.put(_Pull(shard, self._inbox, False, fragment, fragments))

    def pull(self, shard: str, taker: Taker) -> None:
        """Begin to pull a version of a shard for `taker`, which gets an error as well."""
        self._queue.put(_Pull(shard, taker, urgent=True))

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                header, buffer = self._pull(work)
            except UnreachableError as error:
                work.taker(error if work.urgent else Fetched(work.shard))
            except LayerwiseError as error:
                work.taker(error)
            else:
                work.taker(Fetched(work.shard, header, buffer))

    def _pull(self, work: _Pull) -> tuple[Header, memoryview]:
        began = time.perf_counter()
        place = work.shard, work.fragment
        room = None if work.urgent else self._rooms.get(place)
        # A fetch is of a shard that was pulled before, with its frozen tensors.
        moving = not work.urgent
        request = PullRequest(work.shard, self._incarnation, moving, work.fragment, work.fragments)
        header, buffer = pull(self._client, request, STALLED_SECONDS, room)
        if not work.urgent:
            self._rooms[place] = buffer
        self._on_pull(began, buffer.nbytes)
        return header, buffer
