"""Driver of a run's state machine: gives inputs the time, and makes effects durable before a reply leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from common.errors import LayerwiseError
from common.wire.stages import Stage
from common.wire.stores import ListedLease
from master.disk.recovery import ROSTER
from master.disk.state import StateDirectory, seal
from master.effects import Effect
from master.lease import LeaseEvent
from master.run import Run

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class Ledger:
    """Event log and durable values of a run.

    Args:
        run: the state machine.
        state: directory that keeps log and values.
        end_lease: called for each lease that ended, with its last event.
        on_rollback: called when every lease has ended and the shards are about to be put back.
        publish: takes the number of grants, the leases that stand and the present stage, once durable.

    Raises (every method that saves):
        NoRoomError: the values cannot be written; the old values stay, and the next input tries again.
    """

    def __init__(
        self,
        run: Run,
        state: StateDirectory,
        end_lease: Callable[[LeaseEvent], None],
        on_rollback: Callable[[], None],
        publish: Callable[[int, list[ListedLease], Stage], object] = lambda *_: None,
    ) -> None:
        self._run = run
        self._state = state
        self._end_lease = end_lease
        self._on_rollback = on_rollback
        self._publish = publish
        self._turn = asyncio.Lock()
        # Changes of the run's values so far, and of them those that are durable.
        self._changes = self._durable = 0
        # Last events of leases that ended, until the end is durable.
        self._ended: list[LeaseEvent] = []

    def begin(self, effects: list[Effect]) -> None:
        """Log the effects of a recovery, and write the first values, before anybody is served."""
        for effect in effects:
            if effect.line:
                self._state.log(effect.line)
            if effect.ended:
                self._end_lease(effect.ended)
        self._state.write_in_room(ROSTER, seal(self.dump()))
        self._publish(*self._run.listed())

    async def apply(self, decide: Callable[[Request, float], Reply], request: Request) -> Reply:
        """Give the run a request, and carry the effects out before the reply leaves, or the error."""
        try:
            reply = decide(request, time.monotonic())
        except LayerwiseError:
            self._take_effects()
            raise
        await self._carry_out()
        return reply

    async def tick(self) -> None:
        """Tell the run the time, and carry the effects out."""
        self._run.tick(time.monotonic())
        await self._carry_out()

    async def _carry_out(self) -> None:
        """Log events, and wait until every change so far is durable.

        One write serves all changes that have come while another was under way. A write that failed (a full
        disk) is owed: no reply leaves before a write succeeds.
        """
        self._take_effects()
        wanted = self._changes
        if self._durable < wanted:
            async with self._turn:
                if self._durable < wanted:
                    await self._settle()

    def _take_effects(self) -> None:
        """Log the effects of the last inputs; the values are then owed to the disk."""
        for effect in self._run.take_effects():
            if effect.line:
                self._state.log(effect.line)
            self._changes += 1
            if effect.ended:
                self._ended.append(effect.ended)
        self._run.roster.unsettled = self._durable < self._changes

    async def save(self) -> None:
        """Write the run's values durably."""
        async with self._turn:
            await self._settle()

    async def _settle(self) -> None:
        """Make the present values durable, and then the end of leases known.

        The store forgets an ended lease's sequences. Before the end is durable, a master that starts again
        would take a repeated push of the slave for a new push.
        """
        changes, ended = self._changes, len(self._ended)
        await self._write()
        self._durable = changes
        self._run.roster.unsettled = changes < self._changes
        for _ in range(ended):
            self._end_lease(self._ended.pop(0))

    async def _write(self) -> None:
        """Write the present values on a thread: the event loop waits for no disk and no long text."""
        values, listed = self.dump(), self._run.listed()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._state.writer, self._write_values, values)
        self._publish(*listed)

    def _write_values(self, values: dict[str, Any]) -> None:
        self._state.write_in_room(ROSTER, seal(values))

    def dump(self) -> dict[str, Any]:
        """Values that must outlive the master beside the shards."""
        return self._run.dump(time.monotonic())

    def check_open(self) -> None:
        """Raise UnreachableError while a rollback is under way."""
        self._run.check_open()

    async def begin_rollback(self, number: int, saved: dict[str, Any]) -> int:
        """End every lease, durably, and go back to a snapshot's values; returns how many leases ended."""
        ended = self._run.begin_rollback(number, saved, time.monotonic())
        self._on_rollback()
        await self._carry_out()
        await self.save()
        return ended

    def end_rollback(self) -> None:
        """Let slaves join again."""
        self._run.end_rollback()
