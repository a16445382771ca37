"""The RPCs of the master: each reads its message, calls one function of what decides, and answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from common import messages as m
from common.assembly import Assembly
from common.errors import LayerwiseError, MalformedError, UnreachableError
from common.rpc import Server, background
from common.wire import methods
from common.wire.payloads import CHUNK_BYTES, decode_boundary, encode_frame, frames
from master.relay import Address, Mailbox

if TYPE_CHECKING:
    from master.service import Master

# A push of more than this is applied in a thread, so that the event loop goes on.
INLINE_BYTES = 1 << 18


class Servicer:
    """The three services over one master."""

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
        server.add(methods.PUSH, self.push)
        server.add(methods.PULL, self.pull, encoded=True)
        server.add(methods.EXCHANGE, self.exchange)

    async def describe(self, request: m.DescribeRequest) -> m.DescribeReply:  # noqa: ARG002 - has no fields
        """The run's configuration."""
        return m.DescribeReply(self._master.config.to_toml(), self._master.roster.over)

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

    async def push(self, requests: AsyncIterator[m.Frame]) -> AsyncIterator[m.PushReply]:
        """Pushes one after the other, each answered."""
        assembly: Assembly | None = None
        async for frame in requests:
            if assembly is None:
                assembly = Assembly(frame, self._master.admit(frame.header))
            else:
                assembly.add(frame)
            self._master.counters.bytes_received += len(frame.data)
            if assembly.complete:
                yield await self._applied(assembly)
                assembly = None
        if assembly is not None:
            raise MalformedError(f"{assembly.header.shard}: the stream ended within a push")

    async def _applied(self, assembly: Assembly) -> m.PushReply:
        small = assembly.header.table.nbytes <= INLINE_BYTES
        # A creation takes room on the disk, whatever its size, and waits for others that do.
        if small and assembly.header.operation is not m.Operation.CREATE:
            return self._master.push(assembly.header, assembly.pieces)
        return await asyncio.to_thread(self._master.push, assembly.header, assembly.pieces)

    async def pull(self, request: m.PullRequest) -> AsyncIterator[bytes]:
        """One consistent version."""
        reading = self._master.read(request)
        try:
            for frame in frames(reading.header, reading.buffer):
                # Encoding copies, and the question comes after it: a revoked buffer may change meanwhile.
                encoded = encode_frame(frame)
                if reading.revoked:
                    raise UnreachableError(
                        f"{request.shard}: pushes could not wait for this reader; pull again"
                    )
                if reading.header.table.nbytes <= CHUNK_BYTES:
                    reading.release()
                self._master.counters.bytes_sent += len(encoded)
                yield encoded
        finally:
            reading.release()

    async def exchange(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """One slave's activations, or its gradients, both ways."""
        hello = await anext(requests, b"")
        address = self._master.address(decode_boundary(hello))
        mailbox = self._master.open(address)
        background(self._relay(requests, address, mailbox), self._tasks)
        try:
            # Said back, it tells that the mailbox is there: what is answered from now on will arrive.
            yield hello
            while (message := await mailbox.get()) is not None:
                self._master.counters.bytes_sent += len(message)
                yield message
            if mailbox.refusal is not None:
                raise mailbox.refusal
        finally:
            self._master.relay.close(address, mailbox)

    async def _relay(self, requests: AsyncIterator[bytes], address: Address, mailbox: Mailbox) -> None:
        """Pass on what a stream brings, until it ends, is closed or breaks a rule."""
        try:
            async for encoded in requests:
                if mailbox.closed:
                    return
                self._master.counters.bytes_received += len(encoded)
                self._master.relay.put(address, decode_boundary(encoded), encoded)
        except LayerwiseError as error:
            mailbox.refusal = error
        finally:
            self._master.relay.close(address, mailbox)
