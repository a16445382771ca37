"""Roster RPCs at the control port."""

from __future__ import annotations

from collections.abc import Callable

from common.net.addresses import split_address
from common.net.control import ControlServer
from common.wire import messages as m
from common.wire import methods
from master.ledger import Ledger
from master.run import Run


class RosterServicer:
    """Leases, heartbeats and the state of a run.

    Attributes:
        data_port: port for pushes, pulls and boundary streams, on the same host; set before the first call.
    """

    def __init__(self, run: Run, ledger: Ledger, status: Callable[[], m.StatusReply]) -> None:
        self._run = run
        self._ledger = ledger
        self._status = status
        self.data_port = 0

    def register(self, server: ControlServer) -> None:
        """Serve every method."""
        server.add(methods.DESCRIBE, self.describe)
        server.add(methods.JOIN, self.join)
        server.add(methods.HEARTBEAT, self.heartbeat)
        server.add(methods.LEAVE, self.leave)
        server.add(methods.STATUS, self.status)
        server.add(methods.REPORT, self.report)

    async def describe(self, request: m.DescribeRequest) -> m.DescribeReply:  # noqa: ARG002 - has no fields
        """Give the run's configuration and the data port."""
        return m.DescribeReply(self._run.config.to_toml(), self._run.roster.over, self.data_port)

    async def join(self, request: m.JoinRequest) -> m.JoinReply:
        """Grant a lease, or ask the slave to wait.

        Raises:
            ConfigError: profile `basic`, and the slave names no address for its neighbours.
        """
        if self._run.config.cluster.direct:
            split_address(request.address)
        return self._ledger.apply(self._run.join, request)

    async def heartbeat(self, request: m.HeartbeatRequest) -> m.HeartbeatReply:
        """Keep a lease."""
        return self._ledger.apply(self._run.heartbeat, request)

    async def leave(self, request: m.LeaveRequest) -> m.LeaveReply:
        """Give a lease back."""
        return self._ledger.apply(self._run.leave, request)

    async def status(self, request: m.StatusRequest) -> m.StatusReply:  # noqa: ARG002 - has no fields
        """Give the state of the run."""
        return self._status()

    async def report(self, request: m.Evaluation) -> m.ReportReply:
        """Keep an evaluator's result."""
        return self._ledger.apply(self._run.report, request)
