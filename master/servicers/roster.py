"""Roster RPCs at the control port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from common.credentials import SECRET_CHARACTERS, current_caller
from common.errors import MalformedError, RefusedError, UnreachableError
from common.net.addresses import split_address
from common.net.callback import is_greeted
from common.net.control import ControlServer
from common.versions import installed_versions
from common.wire import messages as m
from common.wire import methods
from common.wire.stages import ResizeReply, ResizeRequest
from master.attendance import Attendance
from master.ledger import Ledger
from master.run import Run

MOST_REACHING = 16


class RosterServicer:
    """Leases, heartbeats and the state of a run.

    Args:
        run: state machine.
        ledger: carries requests out.
        status: describes the run.
        reader: token of readers, told to those who join.
        attendance: of the stores; None: the master keeps the shards.

    Attributes:
        data_port: port for pushes, pulls and boundary streams, on the same host; set before the first call.
    """

    def __init__(
        self,
        run: Run,
        ledger: Ledger,
        status: Callable[[], m.StatusReply],
        reader: str = "",
        attendance: Attendance | None = None,
    ) -> None:
        self._attendance = attendance
        self._reader = reader
        self._run = run
        self._ledger = ledger
        self._status = status
        self.data_port = 0
        self._versions = installed_versions()
        # Connections to slaves on their behalf, a few at a time: a firewall may swallow each.
        self._reaching = asyncio.Semaphore(MOST_REACHING)

    def register(self, server: ControlServer) -> None:
        """Serve every method."""
        server.add(methods.DESCRIBE, self.describe)
        server.add(methods.JOIN, self.join)
        server.add(methods.HEARTBEAT, self.heartbeat)
        server.add(methods.LEAVE, self.leave)
        server.add(methods.STATUS, self.status)
        server.add(methods.REPORT, self.report)
        server.add(methods.REACH, self.reach)
        server.add(methods.AGREE, self.agree)
        server.add(methods.RESIZE, self.resize)

    async def describe(self, request: m.DescribeRequest) -> m.DescribeReply:  # noqa: ARG002 - has no fields
        """Give the run's configuration, the data port, the clock and the versions."""
        toml, over = self._run.config.to_toml(), self._run.roster.over
        return m.DescribeReply(toml, over, self.data_port, time.time(), self._versions)

    async def join(self, request: m.JoinRequest) -> m.JoinReply:
        """Grant a lease, or ask the slave to wait.

        Raises:
            ConfigError: profile `basic`, and the slave names no address for its neighbours.
            MalformedError: the request has no key, or a short one: others could guess it.
            UnreachableError: a store of the layer does not know the lease yet.
        """
        if len(request.key) < SECRET_CHARACTERS:
            raise MalformedError(f"a slave joins with a key of {SECRET_CHARACTERS} random hexadecimal digits")
        if self._run.config.cluster.direct:
            split_address(request.address)
        join = partial(self._run.join, certificate=current_caller().holder)
        reply = await self._ledger.apply(join, request)
        if self._attendance and reply.granted:
            # Now no push of an earlier slave can change the progress any more.
            await self._attendance.fence(reply.layer)
            reply = replace(reply, next_batch=self._run.next_batch(reply))
        return replace(reply, reader=self._reader)

    async def heartbeat(self, request: m.HeartbeatRequest) -> m.HeartbeatReply:
        """Keep a lease."""
        return await self._ledger.apply(self._run.heartbeat, request)

    async def leave(self, request: m.LeaveRequest) -> m.LeaveReply:
        """Give a lease back."""
        return await self._ledger.apply(self._run.leave, request)

    async def status(self, request: m.StatusRequest) -> m.StatusReply:  # noqa: ARG002 - has no fields
        """Give the state of the run."""
        return self._status()

    async def report(self, request: m.Evaluation) -> m.ReportReply:
        """Keep an evaluator's result."""
        return await self._ledger.apply(self._run.report, request)

    async def reach(self, request: m.ReachRequest) -> m.ReachReply:
        """Say whether this master reaches an address at which a slave would listen.

        Raises:
            ConfigError: the address is not HOST:PORT.
            RefusedError: slaves of this run do not listen.
            UnreachableError: too many requests are under way.
        """
        if not self._run.config.cluster.direct:
            raise RefusedError("Roster.Reach: slaves of this run do not listen")
        if self._reaching.locked():
            raise UnreachableError("Roster.Reach: other requests are under way; try again")
        async with self._reaching:
            return m.ReachReply(await is_greeted(request.address, request.token))

    async def agree(self, request: m.AgreeRequest) -> m.AgreeReply:
        """Compare an evaluator's data, user's files and versions with those of the run.

        Raises:
            RefusedError: the holdings differ.
        """
        return await self._ledger.apply(self._run.agree, request)

    async def resize(self, request: ResizeRequest) -> ResizeReply:
        """Ask for another number of replicas.

        Raises:
            RefusedError: the run cannot have these replicas, or is over.
        """
        return await self._ledger.apply(self._run.resize, request)
