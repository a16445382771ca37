"""A slave's side of the network while its process lives: a thread, and in `basic` a server of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from common.errors import ConfigError
from common.lifecycle import give_way
from common.net.addresses import check_listen, interface_to, is_unspecified, reachable_address, split_address
from slave.network.servicer import BoundaryServer

Result = TypeVar("Result")
# How long an end waits for what others left on the loop.
LAST_SECONDS = 1.0


class Endpoint:
    """The one event loop of a slave, on a thread of its own: everything that waits on a socket is on it.

    Args:
        master: HOST:PORT.

    Attributes:
        address: where the neighbours reach this slave; empty where it does not listen.
        server: what it listens with; None where it does not.
        loop: runs on the thread.
    """

    def __init__(self, master: str) -> None:
        self.master = master
        self.address = ""
        self.server: BoundaryServer | None = None
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
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

    def listen(self, listen: str | None, advertise: str | None, streams: int, *, insecure: bool) -> None:
        """Take streams of neighbours from now on.

        Args:
            listen: HOST:PORT; None: a free port of the interface that reaches the master.
            advertise: what neighbours are told, port 0 standing for the one that was taken; None: the same.
            streams: so many may be open at a time.
            insecure: whether it may be more than this machine that reaches it.

        Raises:
            ConfigError: an address is none, or says too much.
            RefusedError: the address cannot be listened on.
        """
        listen = listen or f"{interface_to(self.master)}:0"
        check_listen(listen, insecure)
        if advertise and is_unspecified(split_address(advertise)[0]):
            raise ConfigError(
                f"--advertise {advertise}: nobody can reach it; give a name or address of this machine"
            )
        self.address = reachable_address(advertise or listen, self.master)
        server = BoundaryServer(streams, self.loop)
        taken = server.start(listen)
        self.server = server
        host, port = split_address(self.address)
        self.address = f"{host}:{port or taken}"

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run something on the loop; waits for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def post(self, work: Callable[..., object], *arguments: object) -> None:
        """Have the loop call something soon."""
        self.loop.call_soon_threadsafe(work, *arguments)

    def close(self) -> None:
        """End the server and the thread."""
        if self.server is not None:
            self.server.stop()
        self.call(_ended())
        self.post(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _ended() -> None:
    """Until the loop's last tasks are through: grpcio's own outlive a closed channel by a moment."""
    if rest := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(rest, timeout=LAST_SECONDS)
