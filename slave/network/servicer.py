"""A slave's own server: the boundary service, to which the slaves of the layer below open their streams."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from common.errors import LayerwiseError, MalformedError, StalledError, UnreachableError
from common.net.addresses import split_address
from common.net.data.server import DataServer
from common.net.data.streams import Parts
from common.shards.pushes import Buffer
from common.wire.messages import BoundaryKind, BoundaryMessage
from common.wire.methods import EXCHANGE
from common.wire.payloads import decode_boundary

log = logging.getLogger("layerwise.slave")

# A stream that has not said within this time whose it is, is ended.
HELLO_SECONDS = 10.0


class Accepting(Protocol):
    """What takes the streams that are opened: the links of a lease."""

    def accepted(
        self, hello: BoundaryMessage, requests: AsyncIterator[Buffer]
    ) -> AsyncGenerator[Parts, None]:
        """The answers on a stream that has said whose it is."""


class BoundaryServer:
    """Serves streams as long as the process lives; they are for the lease that it holds meanwhile.

    Args:
        streams: so many may be open at a time.
        loop: that they are served on; it must outlive this server.
        hello_seconds: for the first message of each.

    Attributes:
        links: of the present lease, None between two.
        refused: streams that were refused or ended with an error, by the error's name.
    """

    def __init__(
        self, streams: int, loop: asyncio.AbstractEventLoop, hello_seconds: float = HELLO_SECONDS
    ) -> None:
        self.links: Accepting | None = None
        self.refused: Counter[str] = Counter()
        self._hello_seconds = hello_seconds
        self._last_refusal = ""
        self._server = DataServer(self._count, streams)
        self._server.add_open(EXCHANGE, self.exchange, loop)

    def start(self, listen: str) -> int:
        """Listen; the port that was taken.

        Raises:
            RefusedError: the address cannot be listened on.
        """
        return self._server.start(*split_address(listen), option="--listen")

    def stop(self) -> None:
        """End every stream and the server; on another thread than the loop's."""
        self._server.stop()

    async def exchange(self, requests: AsyncIterator[Buffer]) -> AsyncGenerator[Parts, None]:
        """One neighbour's activations up, and the gradients down."""
        try:
            async with asyncio.timeout(self._hello_seconds):
                hello = decode_boundary(await anext(requests, b""))
        except TimeoutError:
            raise StalledError("the stream did not say whose it is") from None
        if hello.kind is not BoundaryKind.PAIR:
            raise MalformedError(f"a stream to a slave begins with PAIR, not {hello.kind.name}")
        if self.links is None:
            raise UnreachableError("this slave trains no layer at present; try again")
        async with aclosing(self.links.accepted(hello, requests)) as answers:
            async for encoded in answers:
                yield encoded

    def _count(self, error: LayerwiseError) -> None:
        self.refused[type(error).__name__] += 1
        # Who is refused tries again, and again.
        if not isinstance(error, UnreachableError) and str(error) != self._last_refusal:
            self._last_refusal = str(error)
            log.warning("a stream from below was ended: %s", error)
