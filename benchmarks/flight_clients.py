"""Work that the clients of `benchmarks.flight` share: leases, orders, and checks of the answers.

`flight_own` and `flight_arrow` are the clients: `python -m benchmarks.MODULE ROLE ADDRESS`. The role
`client` is a slave of layer 1 that takes orders as in `benchmarks.endpoints`; `echo` is a slave of layer 2
that returns every activation as a gradient. Clients work on the calling thread, without a slave's queues.
"""

from __future__ import annotations

import secrets
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.endpoints import answer, orders, time_calls
from common.errors import UnreachableError
from common.lifecycle import end_with_parent, keep_freed_memory
from common.net import control
from common.net.tokens import find_joiner
from common.shards.pushes import Buffer, Header, Operation, PullRequest, PushReply
from common.shards.table import lay_out
from common.wire.messages import BoundaryKind, BoundaryMessage, JoinReply, JoinRequest
from common.wire.methods import JOIN


def join(address: str) -> JoinReply:
    """Take a lease.

    Raises:
        UnreachableError: every seat is taken.
    """
    channel = control.channel(address)
    request = JoinRequest(f"benchmark {time.monotonic_ns()}", key=secrets.token_hex(16))
    lease = control.call(channel, JOIN, request, shown=find_joiner(address))
    channel.close()
    if not lease.granted:
        raise UnreachableError(f"{address}: no lease was granted")
    return lease


def hello(lease: JoinReply) -> BoundaryMessage:
    """Make the first message of the stream between layers 1 and 2."""
    layer = 3 - lease.layer
    return BoundaryMessage(BoundaryKind.PAIR, layer, incarnation=lease.incarnation, run=lease.run)


def gradient_of(message: BoundaryMessage) -> BoundaryMessage:
    """Make a gradient of an activation."""
    return replace(message, kind=BoundaryKind.GRADIENT, layer=1)


def check_gradient(gradient: BoundaryMessage, activation: BoundaryMessage) -> None:
    """Check that an echo belongs to an activation."""
    expected = (BoundaryKind.GRADIENT, activation.batch, len(activation.data))
    if (gradient.kind, gradient.batch, len(gradient.data)) != expected:
        raise AssertionError(f"{activation.batch} came back as {gradient.kind.name} {gradient.batch}")


class Client(ABC):
    """Slave of layer 1 without training: a shard for every size, to which pushes add ones."""

    def __init__(self, lease: JoinReply) -> None:
        self.lease = lease
        self._headers: dict[int, Header] = {}

    def carry_out(self, what: str, nbytes: int, repeats: int) -> list[float]:
        """Carry out an order, and return the seconds of every repeat."""
        if what == "boundary":
            activation = self._activation(nbytes)
            return self.bounce([replace(activation, batch=batch) for batch in range(repeats)])
        if nbytes not in self._headers:
            name = f"1/{('weights', 'gradient', 'input')[len(self._headers)]}"
            table = lay_out([("weight", "float32", (nbytes // 4,), "parameter")])
            header = Header(name, Operation.CREATE, incarnation=self.lease.incarnation, table=table)
            self.push(header, np.zeros(nbytes, np.uint8).data)
            self._headers[nbytes] = header
        ones = np.ones(nbytes // 4, np.float32).view(np.uint8).data
        once = {
            "push": partial(self._push, nbytes, ones, self.push),
            "push_call": partial(self._push, nbytes, ones, self.push_alone),
            "pull": partial(self._pull, nbytes, self.pull),
            "pull_open": partial(self._pull, nbytes, self.pull_open),
        }[what]
        return time_calls(repeats, once)

    def _activation(self, nbytes: int) -> BoundaryMessage:
        table, data = lay_out([("tensor", "float32", (nbytes // 4,), "buffer")]), bytes(nbytes)
        incarnation = self.lease.incarnation
        return BoundaryMessage(BoundaryKind.ACTIVATION, 2, incarnation=incarnation, table=table, data=data)

    def _push(self, nbytes: int, ones: memoryview, send: Callable[[Header, memoryview], PushReply]) -> None:
        last = self._headers[nbytes]
        header = replace(last, operation=Operation.UPDATE, sequence=last.sequence + 1)
        self._headers[nbytes] = header
        reply = send(header, ones)
        if not reply.applied or reply.sequence != header.sequence:
            raise AssertionError(f"{header.sequence} was answered by {reply}")

    def _pull(self, nbytes: int, receive: Callable[[PullRequest], tuple[Header, Buffer]]) -> None:
        header = self._headers[nbytes]
        numbers = np.frombuffer(receive(PullRequest(header.shard, header.incarnation))[1], np.float32)
        if not numbers[0] == numbers[-1] == header.sequence:
            raise AssertionError(f"{header.shard} holds {numbers[0]} after {header.sequence} pushes of one")

    @abstractmethod
    def push(self, header: Header, data: memoryview) -> PushReply:
        """Push in an open call, and return the answer."""

    @abstractmethod
    def push_alone(self, header: Header, data: memoryview) -> PushReply:
        """Push in a new call over an open connection, and return the answer."""

    @abstractmethod
    def pull(self, request: PullRequest) -> tuple[Header, Buffer]:
        """Pull a version into new memory."""

    def pull_open(self, request: PullRequest) -> tuple[Header, Buffer]:
        """Pull a small version in an open call, where the data plane has such a call."""
        return self.pull(request)

    @abstractmethod
    def bounce(self, activations: list[BoundaryMessage]) -> list[float]:
        """Send activations to layer 2 and back, in turn, and return the seconds of every round trip."""


def run_role(client: Callable[[str], Client], echo: Callable[[str], None]) -> None:
    """Run the role that the command line names; a client's first line of output says that it is ready."""
    end_with_parent()
    torch.set_num_threads(1)
    keep_freed_memory()
    role, address = sys.argv[1:]
    if role == "echo":
        echo(address)
        return
    slave = client(address)
    print("ready", flush=True)
    for what, nbytes, repeats in orders():
        answer(slave.carry_out(what, nbytes, repeats))
