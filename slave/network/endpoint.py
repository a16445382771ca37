"""Network of a slave process: the thread of the event loop, and in `basic` a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from common.lifecycle import give_way
from common.net.access import Role
from common.net.addresses import choose_addresses, split_address
from common.net.callback import Greeter
from common.net.data.places import Bounds
from common.net.http2.tls import Tls
from common.net.identity import Identity, tls_for
from common.net.listening import listen_at
from common.supervision import SupervisedThread
from slave.network.servicer import BoundaryServer

Result = TypeVar("Result")
# Bound of a close's wait for tasks that libraries left on the loop.
LAST_SECONDS = 1.0
# A neighbour has a stream, and opens the next one before the last has ended.
STREAMS_OF_A_LEASE = 4
# Streams of callers that have not shown a lease: in all, and of one address.
STRANGERS, STRANGERS_OF_AN_ADDRESS = 64, 16


class Endpoint:
    """Event loop of a slave on a dedicated thread, for all waiting on sockets.

    Args:
        master: HOST:PORT.
        on_answer: called for the master's answer to each heartbeat.
        identity: certificates; None: in the clear.
        run: name of the run, for the roles in certificates.

    Attributes:
        address: HOST:PORT by which neighbours reach this slave; empty for a slave that does not listen.
        server: takes calls of neighbours; None for a slave that does not listen.
        loop: runs on the thread.
    """

    def __init__(
        self,
        master: str,
        on_answer: Callable[[], None] = lambda: None,
        identity: Identity | None = None,
        run: str = "",
    ) -> None:
        self.master = master
        self.on_answer = on_answer
        self.identity = identity
        self.run = run
        self.address = ""
        self.server: BoundaryServer | None = None
        self.loop = asyncio.new_event_loop()
        self._thread = SupervisedThread(self._run, "network")
        self._thread.start()

    def _run(self) -> None:
        give_way()
        self.loop.run_forever()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def listen(
        self,
        listen: str | None,
        advertise: str | None,
        streams: int,
        check: Callable[[str, str], None],
        *,
        insecure: bool,
    ) -> None:
        """Take calls of neighbours from now on.

        Args:
            listen: HOST:PORT; None: a free port of the interface that reaches the master.
            advertise: HOST:PORT for neighbours, where port 0 stands for the port taken; None: as `listen`.
            streams: upper bound of the neighbours' open streams.
            check: takes the address, and the token that whoever connects to it gets meanwhile; raises
                LayerwiseError for an address that peers do not reach.
            insecure: whether other machines may reach the port in the clear.

        Raises:
            ConfigError: an address is malformed, unreachable, or open to other machines.
            RefusedError: the address cannot be listened on.
            LayerwiseError: the error of `check`.
        """
        secure = insecure or self.identity is not None
        listen, self.address = choose_addresses(listen, advertise, self.master, insecure=secure)
        bounds = Bounds(streams, STREAMS_OF_A_LEASE, STRANGERS, STRANGERS_OF_AN_ADDRESS)
        listening = listen_at("--listen", *split_address(listen))
        host, port = split_address(self.address)
        self.address = f"{host}:{port or listening.getsockname()[1]}"
        try:
            with Greeter(listening) as greeter:
                check(self.address, greeter.token)
        except BaseException:
            listening.close()
            raise
        self.server = BoundaryServer(bounds, self.loop, identity=self.identity, run=self.run)
        self.server.start(listening)

    def tls(self, role: Role) -> Tls | None:
        """Return the TLS for calls of peers that have a role in the run; None in the clear."""
        return tls_for(self.identity, role, self.run)

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the loop, and wait for the result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def post(self, work: Callable[..., object], *arguments: object) -> None:
        """Have the loop call a function soon."""
        self.loop.call_soon_threadsafe(work, *arguments)

    def close(self) -> None:
        """End the server and the thread."""
        if self.server is not None:
            self.server.stop()
        self.call(_wait_for_tasks())
        self.post(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _wait_for_tasks() -> None:
    """Wait for the loop's last tasks: grpcio's outlive a closed channel by a moment."""
    if rest := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(rest, timeout=LAST_SECONDS)
