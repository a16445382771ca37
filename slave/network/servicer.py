"""Server of a slave (profile `basic`), called by the slaves of the layer below."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from common.credentials import Credentials
from common.errors import LayerwiseError, UnreachableError
from common.net.access import check_certificate
from common.net.data.incoming import OpenRequests
from common.net.data.pairs import HELLO_SECONDS, read_hello
from common.net.data.places import Bounds
from common.net.data.server import DataServer
from common.net.data.streams import Parts
from common.net.identity import Identity
from common.sparing import SparingLog
from common.wire.messages import BoundaryMessage
from common.wire.methods import EXCHANGE

log = logging.getLogger("layerwise.slave")


class Accepting(Protocol):
    """Links of a lease, which take the calls."""

    def accepted(self, hello: BoundaryMessage, requests: OpenRequests) -> AsyncGenerator[Parts, None]:
        """Answer a call after its hello."""


class BoundaryServer:
    """Server of boundary streams for the life of the process; calls go to the links of the present lease.

    Args:
        bounds: of the open streams.
        loop: serves the streams; must outlive this server.
        hello_seconds: bound of the wait for a stream's first message.
        identity: certificates; None: in the clear.
        run: name of the run, for the roles in certificates.

    Attributes:
        links: of the present lease; None between two leases.
        refused: streams that were refused or ended with an error, by the error's name.
    """

    def __init__(
        self,
        bounds: Bounds,
        loop: asyncio.AbstractEventLoop,
        hello_seconds: float = HELLO_SECONDS,
        *,
        identity: Identity | None = None,
        run: str = "",
    ) -> None:
        self.links: Accepting | None = None
        self.refused: Counter[str] = Counter()
        self._hello_seconds = hello_seconds
        self._refusals = SparingLog(log)
        self._run = run if identity else None
        self._identity = identity
        tls = identity.serve() if identity else None
        self._server = DataServer(self._count, bounds, admit=self._admit, tls=tls)
        self._server.add_open(EXCHANGE, self.exchange, loop)

    def start(self, listening: socket.socket) -> int:
        """Serve a listener, which is this server's from now on; returns its port."""
        return self._server.take(listening)

    def stop(self) -> None:
        """End every stream and the server; never on the loop's thread."""
        self._server.stop()

    @property
    def holder(self) -> str:
        """Name of the own certificate; empty in the clear."""
        return self._identity.certificate.holder if self._identity else ""

    async def exchange(self, requests: OpenRequests) -> AsyncGenerator[Parts, None]:
        """Answer a neighbour's call: activations come up, gradients go down.

        Raises:
            UnreachableError: this slave trains no layer at present.
            MalformedError: the neighbour says no hello.
        """
        hello = await read_hello(requests, self._hello_seconds)
        if self.links is None:
            raise UnreachableError("this slave trains no layer at present; try again")
        async with aclosing(self.links.accepted(hello, requests)) as answers:
            async for encoded in answers:
                yield encoded

    def _admit(self, path: str, shown: Credentials) -> None:
        """Check that a caller is a slave: the hello then proves which.

        Raises:
            LayerwiseError: the caller has no valid certificate with the role (see `check_certificate`).
        """
        if self._run is not None:
            check_certificate(path, shown.certificate, self._run)

    def _count(self, error: LayerwiseError) -> None:
        self.refused[type(error).__name__] += 1
        # A refused neighbour tries again and again.
        if not isinstance(error, UnreachableError):
            self._refusals.say(logging.WARNING, "a stream from below was ended: %s", error)
