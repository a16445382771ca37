"""Lease of a seat, and the events of leases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.wire.messages import JoinRequest, Telemetry
from common.wire.ranges import restore
from common.wire.telemetry import NONE, merge

# Layer and replica.
Place = tuple[int, int]


@dataclass(frozen=True)
class LeaseEvent:
    """Event of a lease; `kind` is joined, replaced (an earlier slave), left, failed, fenced or done."""

    kind: str
    layer: int
    replica: int
    incarnation: int
    slave: str
    reason: str = ""

    def line(self) -> dict[str, Any]:
        """Line for the event log."""
        return {
            "event": self.kind,
            "layer": self.layer,
            "replica": self.replica,
            "incarnation": self.incarnation,
            "slave": self.slave,
            "why": self.reason,
        }


@dataclass
class Lease:
    """Seat, with the present lease.

    Attributes:
        layer: k of the seat.
        replica: r of the seat.
        incarnation: number of the lease; 0 for a vacant seat.
        slave: holder of the lease.
        proof: hash of the lease's secret; empty for a vacant seat.
        certificate: name of the holder's certificate; empty in the clear.
        seen: time of the holder's last sign of life.
        beat: number of the last heartbeat.
        moved: time of the holder's last batch, or of the grant.
        grants: leases granted on the seat so far.
        gone: last slave's end in words, for the event of its successor.
        done: the holder is through all batches, with every push acknowledged.
        telemetry: work of the holder.
        retired: work of earlier slaves.
    """

    layer: int
    replica: int
    incarnation: int = 0
    slave: JoinRequest = field(default_factory=JoinRequest)
    proof: str = ""
    certificate: str = ""
    seen: float = 0.0
    beat: int = 0
    moved: float = 0.0
    grants: int = 0
    gone: str = ""
    done: bool = False
    telemetry: Telemetry = field(default_factory=Telemetry)
    retired: Telemetry = NONE

    @property
    def reached(self) -> int:
        """First batch that no slave of the seat has seen."""
        return max(self.retired.next_batch, self.telemetry.next_batch)

    def total(self) -> Telemetry:
        """Work of every slave of the seat."""
        return merge(self.retired, self.telemetry)


def restore_telemetry(lease: dict[str, Any]) -> tuple[Telemetry, Telemetry]:
    """Restore telemetry of a saved seat's earlier slaves and of its present slave."""
    return restore(Telemetry, lease["retired"]), restore(Telemetry, lease["telemetry"])
