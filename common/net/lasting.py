"""A server of grpc.aio that outlives what ends the library's own.

The library ends its whole server at one call whose method's name is no UTF-8: its main task decodes the name
outside any call. It also logs, with a traceback, what it cannot decode of a call's metadata: half a secret.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from common.errors import LayerwiseError, MalformedError
from common.net.backoff import Backoff
from common.net.listening import join_address
from common.net.tasks import cancel
from common.supervision import start_task

log = logging.getLogger("layerwise.control")

# Pauses between attempts to take the port of a server that has ended: it is free after a moment.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0
# Calls under way at a server that has ended go on for so long.
_GRACE_SECONDS = 60.0


class LastingServer:
    """Server of an event loop; when its main task ends by itself, another takes its port.

    Args:
        make: makes a server that has its methods, and no port.
        listen: adds the port of an address to a server, and returns the port's number; RuntimeError where it
            is taken.
        on_error: takes an error for each server that has ended by itself.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        listen: Callable[[Any, str], int],
        on_error: Callable[[LayerwiseError], None],
    ) -> None:
        self._make = make
        self._listen = listen
        self._on_error = on_error
        self._server: Any = None
        self._address = ""
        self._stopping = False
        self._ends = 0
        # Servers that have ended by themselves, and the tasks that put others into their places.
        self._old: list[Any] = []
        self._reopening: set[asyncio.Task[None]] = set()
        logging.getLogger("grpc._cython.cygrpc").addFilter(_keeps)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port that was taken.

        Raises:
            RuntimeError: the port is taken.
        """
        server = self._make()
        port = self._listen(server, join_address(host, port))
        self._address = join_address(host, port)
        await self._begin(server)
        return port

    async def stop(self, grace: float) -> None:
        """Take no more calls, and end the calls under way after `grace` seconds."""
        self._stopping = True
        await cancel(list(self._reopening))
        servers = [*self._old, self._server] if self._server else []
        await asyncio.gather(*(server.stop(grace) for server in servers))

    async def _begin(self, server: Any) -> None:
        before = asyncio.all_tasks()
        self._server = server
        await server.start()
        # The library tells of the end of its main task only once every call is over.
        main = min(asyncio.all_tasks() - before, key=_number)
        main.add_done_callback(self._note_end)

    def _note_end(self, main: asyncio.Task[Any]) -> None:
        if self._stopping or main.cancelled() or main.exception() is None:
            return
        # The library's answer to the end is a task that fails with the same error, which nobody asks it for.
        max(asyncio.all_tasks(), key=_number).add_done_callback(_retrieve)
        self._ends += 1
        say = log.warning if self._ends == 1 else log.debug
        say("gRPC has ended its server of the control port: %s; another has its place", main.exception())
        self._on_error(MalformedError("a call that gRPC cannot read has ended its server"))
        self._old.append(self._server)
        reopening = start_task(self._reopen(self._server), "control port")
        self._reopening.add(reopening)
        reopening.add_done_callback(self._reopening.discard)

    async def _reopen(self, ended: Any) -> None:
        server = self._make()
        backoff = Backoff(time.monotonic, random.random, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
        while not self._has_port(server):
            await asyncio.sleep(backoff.next_delay())
        await self._begin(server)
        await ended.stop(_GRACE_SECONDS)
        self._old.remove(ended)

    def _has_port(self, server: Any) -> bool:
        try:
            return bool(self._listen(server, self._address))
        except RuntimeError:
            return False


def _number(task: asyncio.Task[Any]) -> int:
    """Return which task of this process it is; -1 for one that was given a name."""
    name = task.get_name().removeprefix("Task-")
    return int(name) if name.isdigit() else -1


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _keeps(record: logging.LogRecord) -> bool:
    """Whether a record of the library's may be shown: it holds nothing of a peer's."""
    return not isinstance(record.msg, Exception) and not str(record.msg).startswith("Invalid encoding on")
