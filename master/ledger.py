"""Driver of a run's state machine: gives inputs the time, and makes effects durable before a reply leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from master.disk.recovery import ROSTER
from master.disk.state import StateDirectory, seal
from master.roster import LeaseEvent
from master.run import Effect, Run

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class Ledger:
    """Event log and durable values of a run.

    Args:
        run: the state machine.
        state: directory that keeps log and values.
        end_lease: called for each lease that ended, with its last event.
        on_rollback: called when every lease has ended and the shards are about to be put back.

    Raises (every method that saves):
        NoRoomError: the values cannot be written; the old values stay, and the next input tries again.
    """

    def __init__(
        self,
        run: Run,
        state: StateDirectory,
        end_lease: Callable[[LeaseEvent], None],
        on_rollback: Callable[[], None],
    ) -> None:
        self._run = run
        self._state = state
        self._end_lease = end_lease
        self._on_rollback = on_rollback
        self._unsaved = False
        # Last events of leases that ended, until the end is durable.
        self._ended: list[LeaseEvent] = []

    def apply(self, decide: Callable[[Request, float], Reply], request: Request) -> Reply:
        """Give the run a request, and carry the effects out before the reply leaves."""
        reply = decide(request, time.monotonic())
        self.carry_out(self._run.take_effects())
        return reply

    def tick(self) -> None:
        """Tell the run the time, and carry the effects out."""
        self._run.tick(time.monotonic())
        self.carry_out(self._run.take_effects())

    def carry_out(self, effects: list[Effect]) -> None:
        """Log events, save, and end leases."""
        for effect in effects:
            self._state.log(effect.line)
            if effect.ended:
                self._ended.append(effect.ended)
        # A save that failed (a full disk) is owed: no reply leaves before a save succeeds.
        self._unsaved = self._unsaved or bool(effects)
        if self._unsaved:
            self._run.roster.unsettled = True
            self.save()
            self._run.roster.unsettled = self._unsaved = False
        # After the save: the store forgets the slave's sequences, and until its end is durable a master that
        # starts again would take a repeated push of the slave for a new push.
        while self._ended:
            self._end_lease(self._ended.pop(0))

    def save(self) -> None:
        """Write the run's values durably."""
        self._state.write(ROSTER, seal(self.dump()))

    def dump(self) -> dict[str, Any]:
        """Values that must outlive the master beside the shards."""
        return self._run.dump(time.monotonic())

    def check_open(self) -> None:
        """Raise UnreachableError while a rollback is under way."""
        self._run.check_open()

    def begin_rollback(self, number: int, saved: dict[str, Any]) -> int:
        """End every lease, durably, and go back to a snapshot's values; returns how many leases ended."""
        ended = self._run.begin_rollback(number, saved, time.monotonic())
        self._on_rollback()
        self.carry_out(self._run.take_effects())
        self.save()
        return ended

    def end_rollback(self) -> None:
        """Let slaves join again."""
        self._run.end_rollback()
