"""Client of our own data plane for `benchmarks.flight` (see `benchmarks.flight_clients`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from benchmarks.flight_clients import Client, check_gradient, gradient_of, hello, join, run_role
from common.credentials import Credentials
from common.errors import UnreachableError
from common.net.data.client import Call, DataClient, locate, pull
from common.net.data.streams import Stream, opened
from common.shards.pushes import Header, PullRequest, PushReply
from common.wire.messages import BoundaryMessage, JoinReply
from common.wire.methods import EXCHANGE, PUSH
from common.wire.payloads import boundary_parts, decode_boundary, encode_boundary, frame_parts, frames

SECONDS = 60.0


class OwnClient(Client):
    """Slave of layer 1 at the master's data port."""

    def __init__(self, address: str) -> None:
        super().__init__(join(address))
        self._address = address
        connect = partial(DataClient, partial(locate, address), _shown(self.lease))
        self._pushes, self._pulls, self._alone = (connect() for _ in range(3))
        self._call: Call | None = None

    def push(self, header: Header, data: memoryview) -> PushReply:
        """Push in an open call."""
        self._call = self._call or self._pushes.call(PUSH)
        return _push(self._call, header, data)

    def push_alone(self, header: Header, data: memoryview) -> PushReply:
        """Push in a new call over an open connection."""
        with self._alone.call(PUSH) as call:
            reply = _push(call, header, data)
            call.end()
        return reply

    def pull(self, request: PullRequest) -> tuple[Header, memoryview]:
        """Pull over an open connection."""
        return pull(self._pulls, request, SECONDS)

    def bounce(self, activations: list[BoundaryMessage]) -> list[float]:
        """Send and receive on an event loop."""
        return asyncio.run(self._bounce(activations))

    async def _bounce(self, activations: list[BoundaryMessage]) -> list[float]:
        seconds = []
        async with _pair(self._address, self.lease) as stream:
            for activation in activations:
                start = time.perf_counter()
                await stream.write(*boundary_parts(activation))
                gradient = await _read(stream)
                seconds.append(time.perf_counter() - start)
                check_gradient(gradient, activation)
        return seconds


def _shown(lease: JoinReply) -> Credentials:
    return Credentials(lease.incarnation, lease.secret)


def _push(call: Call, header: Header, data: memoryview) -> PushReply:
    for frame in frames(header, data):
        call.send(*frame_parts(frame))
    encoded = call.read(SECONDS)
    if encoded is None:
        raise UnreachableError("the master ended the stream of pushes")
    return PUSH.reply.decode(bytes(encoded))


async def _read(stream: Stream) -> BoundaryMessage:
    encoded = await stream.read()
    if encoded is None:
        raise UnreachableError("the stream ended")
    return decode_boundary(encoded)


@asynccontextmanager
async def _pair(address: str, lease: JoinReply) -> AsyncIterator[Stream]:
    """Call the master for the neighbour, and wait for the neighbour's call."""
    host, port = await asyncio.to_thread(locate, address)
    async with opened(host, port, EXCHANGE, shown=_shown(lease)) as stream:
        await stream.write(encode_boundary(hello(lease)))
        await _read(stream)
        yield stream


async def _echo(address: str) -> None:
    lease = join(address)
    print("ready", flush=True)
    while True:
        # The pair ends with every order of the client.
        with suppress(UnreachableError):
            async with _pair(address, lease) as stream:
                while True:
                    await stream.write(*boundary_parts(gradient_of(await _read(stream))))


def echo(address: str) -> None:
    """Return every activation as a gradient."""
    asyncio.run(_echo(address))


if __name__ == "__main__":
    run_role(OwnClient, echo)
