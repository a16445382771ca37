"""The RPCs of the master: each reads its message, calls one function of what decides, and answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

from common.errors import LayerwiseError
from common.net.control import Server, background
from common.net.data.server import Server as BulkServer
from common.net.data.streams import Parts
from common.shards import pushes
from common.wire import messages as m
from common.wire import methods
from common.wire.payloads import decode_boundary
from master.relay import Address, Mailbox

if TYPE_CHECKING:
    from master.service import Master


class Servicer:
    """The services over one master."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, server: Server) -> None:
        """Serve every method."""
        server.add(methods.DESCRIBE, self.describe)
        server.add(methods.JOIN, self.join)
        server.add(methods.HEARTBEAT, self.heartbeat)
        server.add(methods.LEAVE, self.leave)
        server.add(methods.STATUS, self.status)
        server.add(methods.REPORT, self.report)
        server.add(methods.SNAPSHOT, self.snapshot)
        server.add(methods.SNAPSHOTS, self.snapshots)
        server.add(methods.ROLLBACK, self.rollback)
        server.add(methods.SYNTHESIZE, self.synthesize)

    async def describe(self, request: m.DescribeRequest) -> m.DescribeReply:  # noqa: ARG002 - has no fields
        """The run's configuration."""
        master = self._master
        return m.DescribeReply(master.config.to_toml(), master.roster.over, master.bulk_port)

    async def join(self, request: m.JoinRequest) -> m.JoinReply:
        """A lease, or wait."""
        return self._master.join(request)

    async def heartbeat(self, request: m.HeartbeatRequest) -> m.HeartbeatReply:
        """Keep a lease."""
        return self._master.heartbeat(request)

    async def leave(self, request: m.LeaveRequest) -> m.LeaveReply:
        """Give a lease back."""
        self._master.leave(request)
        return m.LeaveReply()

    async def status(self, request: m.StatusRequest) -> m.StatusReply:  # noqa: ARG002 - has no fields
        """How the run goes."""
        return self._master.status()

    async def report(self, request: m.Evaluation) -> m.ReportReply:
        """Note an evaluator's result."""
        self._master.note(request)
        return m.ReportReply()

    async def snapshot(self, request: m.SnapshotRequest) -> m.SnapshotReply:  # noqa: ARG002 - has no fields
        """Take one now."""
        return m.SnapshotReply(await self._master.keeper.take())

    async def snapshots(self, request: m.SnapshotsRequest) -> m.SnapshotsReply:  # noqa: ARG002 - has no fields
        """Those that there are."""
        return m.SnapshotsReply(await self._master.keeper.listed())

    async def rollback(self, request: m.RollbackRequest) -> m.RollbackReply:
        """Put the run back to one."""
        return await self._master.keeper.roll_back(request.number)

    def register_open(self, server: BulkServer, loop: asyncio.AbstractEventLoop) -> None:
        """Serve boundary streams at the data port, from an event loop."""
        server.add_open(methods.EXCHANGE, self.exchange, loop)

    async def exchange(self, requests: AsyncIterator[pushes.Buffer]) -> AsyncGenerator[Parts, None]:
        """One slave's activations, or its gradients, both ways."""
        hello = await anext(requests, b"")
        address = self._master.address(decode_boundary(hello))
        mailbox = self._master.open(address)
        background(self._relay(requests, address, mailbox), self._tasks)
        try:
            # Said back, it tells that the mailbox is there: what is answered from now on will arrive.
            yield (hello,)
            while (message := await mailbox.get()) is not None:
                self._master.counters.add(bytes_sent=len(message))
                yield (message,)
            if mailbox.refusal is not None:
                raise mailbox.refusal
        finally:
            self._master.relay.close(address, mailbox)

    async def synthesize(
        self, requests: AsyncIterator[m.SynthesisMessage]
    ) -> AsyncIterator[m.SynthesisMessage]:
        """What a slave asks and tells M. One at a time: the others wait in its stream."""
        async for request in requests:
            self._master.counters.add(bytes_received=len(request.data))
            reply = await self._master.synthesize(request)
            if reply is not None:
                self._master.counters.add(bytes_sent=len(reply.data))
                yield reply

    async def _relay(
        self, requests: AsyncIterator[pushes.Buffer], address: Address, mailbox: Mailbox
    ) -> None:
        """Pass on what a stream brings, until it ends, is closed or breaks a rule."""
        try:
            async for encoded in requests:
                if mailbox.closed:
                    return
                self._master.counters.add(bytes_received=len(encoded))
                self._master.relay.put(address, decode_boundary(encoded), encoded)
        except LayerwiseError as error:
            mailbox.refusal = error
        finally:
            self._master.relay.close(address, mailbox)
