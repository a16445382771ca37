"""Keeper RPCs at the control port: snapshots and rollbacks."""

from __future__ import annotations

from common.net.control import ControlServer
from common.wire import messages as m
from common.wire import methods
from master.disk.scheduler import SnapshotScheduler


class KeeperServicer:
    """Snapshots of a run on demand."""

    def __init__(self, scheduler: SnapshotScheduler) -> None:
        self._scheduler = scheduler

    def register(self, server: ControlServer) -> None:
        """Serve every method."""
        server.add(methods.SNAPSHOT, self.snapshot)
        server.add(methods.SNAPSHOTS, self.snapshots)
        server.add(methods.ROLLBACK, self.rollback)

    async def snapshot(self, request: m.SnapshotRequest) -> m.SnapshotReply:  # noqa: ARG002 - has no fields
        """Take a snapshot now."""
        return m.SnapshotReply(await self._scheduler.take())

    async def snapshots(self, request: m.SnapshotsRequest) -> m.SnapshotsReply:  # noqa: ARG002 - has no fields
        """List the snapshots, oldest first."""
        return m.SnapshotsReply(await self._scheduler.list_all())

    async def rollback(self, request: m.RollbackRequest) -> m.RollbackReply:
        """Put the run back to a snapshot."""
        return await self._scheduler.roll_back(request.number)
