"""Boundary streams of profile `light` at the data port: activations and gradients through the relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from common.errors import LayerwiseError, MalformedError
from common.net.control import background
from common.net.data.server import DataServer
from common.net.data.streams import Parts
from common.shards.pushes import Buffer
from common.wire.messages import BoundaryKind, BoundaryMessage
from common.wire.methods import EXCHANGE
from common.wire.payloads import decode_boundary
from master.relay import Address, Mailbox, Relay
from master.roster import Roster
from master.tally import Tally


class BoundaryServicer:
    """Streams between neighbouring layers, joined by the relay."""

    def __init__(self, roster: Roster, relay: Relay, tally: Tally) -> None:
        self._roster = roster
        self._relay = relay
        self._tally = tally
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, server: DataServer, loop: asyncio.AbstractEventLoop) -> None:
        """Serve the method on an event loop."""
        server.add_open(EXCHANGE, self.exchange, loop)

    async def exchange(self, requests: AsyncIterator[Buffer]) -> AsyncGenerator[Parts, None]:
        """Pass a slave's activations, or gradients, on in both directions.

        Raises:
            MalformedError: an invalid message.
            FencedError: the sender's lease has passed to another slave.
        """
        hello = await anext(requests, b"")
        address = self._identify(decode_boundary(hello))
        mailbox = self._relay.connect(address)
        background(self._forward(requests, address, mailbox), self._tasks)
        try:
            # The echo tells the slave that its mailbox exists: answers sent from now on will arrive.
            yield (hello,)
            while (message := await mailbox.get()) is not None:
                self._tally.add(bytes_sent=len(message))
                yield (message,)
            if mailbox.refusal is not None:
                raise mailbox.refusal
        finally:
            self._relay.close(address, mailbox)

    def _identify(self, hello: BoundaryMessage) -> Address:
        """Find the address of a stream by the first message.

        Raises:
            MalformedError: the message opens no stream.
            FencedError: the sender's lease has passed to another slave.
        """
        if hello.kind not in (BoundaryKind.ACTIVATIONS, BoundaryKind.GRADIENTS):
            raise MalformedError(f"a stream begins with ACTIVATIONS or GRADIENTS, not {hello.kind.name}")
        seat = self._roster.seat(hello.incarnation)
        return Address(seat.layer, seat.replica, hello.kind)

    async def _forward(self, requests: AsyncIterator[Buffer], address: Address, mailbox: Mailbox) -> None:
        """Pass a stream's messages to the relay until the stream ends, closes or breaks a rule."""
        try:
            async for encoded in requests:
                if mailbox.closed:
                    return
                self._tally.add(bytes_received=len(encoded))
                self._relay.put(address, decode_boundary(encoded), encoded)
        except LayerwiseError as error:
            mailbox.refusal = error
        finally:
            self._relay.close(address, mailbox)
