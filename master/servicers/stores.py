"""Stores RPCs at the control port."""

from __future__ import annotations

from common.errors import RefusedError
from common.net.control import ControlServer
from common.wire import methods
from common.wire.stores import AttendReply, AttendRequest, LocateReply, LocateRequest, PlaceRequest
from master.attendance import Attendance
from master.ledger import Ledger
from master.run import Run


class StoresServicer:
    """Reports of stores, and places of shards.

    Args:
        run: state machine.
        ledger: carries requests out.
        attendance: of the stores; None: the master keeps the shards.
        reader: token of readers, told to stores.

    Attributes:
        data_port: the master's own; set before the first call.
    """

    def __init__(self, run: Run, ledger: Ledger, attendance: Attendance | None, reader: str = "") -> None:
        self._reader = reader
        self._run = run
        self._ledger = ledger
        self._attendance = attendance
        self.data_port = 0

    def register(self, server: ControlServer) -> None:
        """Serve every method."""
        server.add(methods.ATTEND, self.attend)
        server.add(methods.LOCATE, self.locate)
        server.add(methods.PLACE, self.place)

    async def attend(self, request: AttendRequest) -> AttendReply:
        """Take a store's report, and answer with the order for it, at once or once there is one.

        Raises:
            RefusedError: the store is none of the run.
            FencedError: another process has taken over the store's directory.
        """
        await self._ledger.apply(self._run.attend, request)
        if self._attendance is None or self._run.stores is None:
            raise RefusedError("there are no stores in this run")
        self._attendance.wake()
        order = await self._attendance.order_for(request)
        number = self._run.stores.number_of(request.store)
        return AttendReply(self._run.identity, number, order, self._reader)

    async def locate(self, request: LocateRequest) -> LocateReply:
        """Say where a shard is.

        Raises:
            NotFoundError: the shard has not been dealt out.
            UnreachableError: its store is away.
        """
        found = self._run.locate(request)
        return found if found.store else LocateReply(address=f":{self.data_port}")

    async def place(self, request: PlaceRequest) -> LocateReply:
        """Deal a shard to a store.

        Raises:
            FencedError: the lease has passed to another slave.
            MalformedError: the shard is not of the slave's seat.
            UnreachableError: stores are missing.
        """
        return await self._ledger.apply(self._run.place, request)
