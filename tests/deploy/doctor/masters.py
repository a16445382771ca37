"""Masters of which a test decides each answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common.config.sections import Config
from common.net.callback import is_greeted
from common.net.control import ControlServer
from common.versions import installed_versions
from common.wire import methods
from common.wire.messages import DescribeReply, DescribeRequest, ReachReply, ReachRequest

DEADLINE = 20.0


class FakeMaster:
    """A control port with the answers that the doctor asks for.

    Attributes:
        config: the run's configuration.
        bulk_port: the data port that is announced.
        ahead: seconds by which the clock is wrong.
        versions: versions of the master's machine.
        walled: whether connections from the master to others get nowhere.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bulk_port = 1
        self.ahead = 0.0
        self.versions = installed_versions()
        self.walled = False

    async def describe(self, request: DescribeRequest) -> DescribeReply:
        return DescribeReply(
            self.config.to_toml(), False, self.bulk_port, time.time() + self.ahead, self.versions
        )

    async def reach(self, request: ReachRequest) -> ReachReply:
        return ReachReply(not self.walled and await is_greeted(request.address, request.token))

    async def start(self) -> tuple[ControlServer, str]:
        server = ControlServer()
        server.add(methods.DESCRIBE, self.describe)
        server.add(methods.REACH, self.reach)
        return server, await server.start("127.0.0.1:0")


@contextmanager
def fake_master(master: FakeMaster) -> Iterator[str]:
    """Serve a master's answers; its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server, address = asyncio.run_coroutine_threadsafe(master.start(), loop).result(DEADLINE)
        try:
            yield address
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(DEADLINE)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
        loop.close()
