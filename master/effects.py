"""Effects of a run's inputs, which `master.ledger` carries out before the reply leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from master.lease import LeaseEvent

# Kinds of lease events after which a seat is vacant.
_ENDS = ("left", "failed", "fenced")


@dataclass(frozen=True)
class Effect:
    """Change of the values that must outlive the master.

    Attributes:
        line: for the event log; empty: no event.
        ended: last event of a lease that ended.
    """

    line: dict[str, Any]
    ended: LeaseEvent | None = None

    @staticmethod
    def of(event: LeaseEvent) -> Effect:
        """Return the effect of a lease's event."""
        return Effect(event.line(), event if event.kind in _ENDS else None)
