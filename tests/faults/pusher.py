"""A slave that trains nothing: the slave's own connections, over which it pushes integers.

As a script (`python -m tests.faults.pusher HOST:PORT NAME [stores]`) it pushes, one at a time, until its
standard input ends, and says on standard output what it does: a line of `word incarnation sequence` each, and
`holds incarnation layer` of each lease.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from common.errors import FencedError, LayerwiseError, NotFoundError, UnreachableError
from common.net import control
from common.net.tokens import find_joiner
from common.shards.pushes import Header, Operation, PushReply
from common.shards.table import lay_out
from common.shards.working_copy import Push
from common.wire.messages import JoinReply, JoinRequest, Telemetry
from common.wire.methods import JOIN
from slave.network.endpoint import Endpoint
from slave.network.meter import Meter
from slave.network.network import Network
from tests.master.served import key_of

# Of a run of one layer.
SHARD = "1/weights"
COUNT = 1000
TABLE = lay_out([("weight", "float32", (COUNT,), "parameter")])
HEARTBEAT_SECONDS = 0.4
# For neighbours in `basic`; of the one layer there are none.
ADDRESS = "127.0.0.1:1"
PATIENCE = 60.0
# Nothing waits so long unless it fails.
DEADLINE = 60.0


def delta(incarnation: int, sequence: int) -> npt.NDArray[np.float32]:
    """What a push adds: integers from 1 to 9, so that sums of a million pushes are exact in float32."""
    return np.random.default_rng([incarnation, sequence]).integers(1, 10, COUNT).astype(np.float32)


class Pusher:
    """One lease, held by heartbeats, and its pushes; `in_stores` if stores keep the shards."""

    def __init__(self, address: str, slave: str, *, in_stores: bool = False) -> None:
        self.lease = self._joined(address, slave)
        self.shard = f"{self.lease.layer}/weights"
        self.sequence = 0
        self._endpoint = Endpoint(address)
        self._network = Network(
            self._endpoint,
            self.lease,
            HEARTBEAT_SECONDS,
            PATIENCE,
            Telemetry,
            Meter(),
            in_stores=in_stores,
        )
        self._network.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._network.close()
        self._endpoint.close()

    def _joined(self, address: str, slave: str) -> JoinReply:
        channel, waiting = control.channel(address), threading.Event()
        request = JoinRequest(slave, address=ADDRESS, key=key_of(slave))
        try:
            while True:
                try:
                    reply = control.call(channel, JOIN, request, 2.0, find_joiner(address))
                    if reply.granted:
                        return reply
                except UnreachableError:
                    pass
                waiting.wait(0.1)
        finally:
            channel.close()

    def begin(self) -> None:
        """See that the shard is there, and go on from the last sequence that the master knows."""
        while True:
            try:
                header, _ = self._network.pull(self.shard)
                break
            except UnreachableError:
                continue
            except NotFoundError:
                self._send(
                    Header(
                        self.shard,
                        Operation.CREATE,
                        incarnation=self.lease.incarnation,
                        table=TABLE,
                        replica=self.lease.replica,
                    )
                )
                self.answer()
        self.sequence = header.sequence

    def push(self) -> None:
        """Send the next push; its answer comes by `answer`."""
        self.sequence += 1
        who = self.lease.incarnation
        self._send(
            Header(
                self.shard,
                Operation.UPDATE,
                0,
                who,
                self.sequence,
                self.sequence,
                TABLE,
                0,
                self.lease.replica,
            ),
            delta(who, self.sequence),
        )

    def _send(self, header: Header, numbers: npt.NDArray[np.float32] | None = None) -> None:
        buffer = np.zeros(COUNT, np.float32) if numbers is None else numbers
        self._network.push(Push(header, buffer.view(np.uint8)))

    def answer(self) -> PushReply:
        """The answer to what was sent last.

        Raises:
            LayerwiseError: the lease has ended, or the push was refused.
        """
        while True:
            event = self._network.inbox.get(timeout=DEADLINE)
            if isinstance(event, LayerwiseError):
                raise event
            if isinstance(event, PushReply):
                return event

    def leave(self) -> None:
        """Give the lease back."""
        self._network.leave("done")


def say(*words: object) -> None:
    """One line at once: nothing may be unsaid when this process or the master is killed."""
    print(*words, flush=True)


def push_until(stop: threading.Event, address: str, slave: str, *, in_stores: bool) -> None:
    """Push under one lease."""
    with Pusher(address, slave, in_stores=in_stores) as pusher:
        who = pusher.lease.incarnation
        say("holds", who, pusher.lease.layer)
        pusher.begin()
        try:
            while not stop.is_set():
                # Before the push: a slave that is killed has said everything that it may have sent.
                say("sent", who, pusher.sequence + 1)
                pusher.push()
                say("applied" if pusher.answer().applied else "repeated", who, pusher.sequence)
            pusher.leave()
        except FencedError:
            say("fenced", who, pusher.sequence)


def main() -> None:
    """Push until standard input ends, under as many leases as it takes."""
    address, slave, *rest = sys.argv[1:]
    stop = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    while not stop.is_set():
        push_until(stop, address, slave, in_stores=rest == ["stores"])


if __name__ == "__main__":
    main()
