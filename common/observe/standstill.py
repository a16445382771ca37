"""Standstill of a run: seats that do no batch although slaves hold them. Pure."""

from __future__ import annotations

from common.config.sections import Config
from common.wire.messages import Seat, StatusReply

# A seat stands still after this many heartbeats without a batch, and after this many seconds at least.
STILL_BEATS, STILL_SECONDS = 20, 10.0
# Batches that take long, on a slow machine, are given this many times their mean duration.
SLOW_STEPS = 5
# Seconds for the first batch of a slave: compiling, reading data and pulling shards take long.
FIRST_SECONDS = 300.0


def standing_seats(status: StatusReply, config: Config) -> list[Seat]:
    """List the seats to look at in a run that stands still, or partly does; empty while all is well.

    Slaves that wait for a message are left out if the slave that others wait for is known: a slave that
    neither waits nor ends a batch. While a seat is vacant or late, the others wait with reason.
    """
    if status.state != "training" or any(seat.state not in ("training", "done") for seat in status.seats):
        return []
    training = [seat for seat in status.seats if seat.state == "training"]
    still = [seat for seat in training if seat.still_seconds > _limit(seat, config)]
    busy = [seat for seat in still if not seat.telemetry.waits]
    # A slave that has yet to begin may be the reason for which others wait.
    explained = not all(seat.begun for seat in training) and len(still) < len(training)
    return busy or ([] if explained else still)


def changes_in_vain(status: StatusReply, config: Config) -> bool:
    """Whether slave after slave takes a seat over, and the run gets no further.

    A grant ends the seat's own standstill, and a vacancy lasts for moments: no seat stands still for long.
    """
    patience = max((_patience(seat, config) for seat in status.seats), default=0.0)
    return status.state != "done" and status.successors > 0 and status.still_seconds > patience


def count_standing(status: StatusReply, config: Config) -> int:
    """Count the seats that stand still: all that are not done, where slaves change in vain."""
    if changes_in_vain(status, config):
        return sum(seat.state != "done" for seat in status.seats)
    return len(standing_seats(status, config))


def stands_still(status: StatusReply, config: Config) -> bool:
    """Whether no seat of a run does batches for long, although slaves come."""
    if changes_in_vain(status, config):
        return True
    training = [seat for seat in status.seats if seat.state == "training"]
    return bool(standing_seats(status, config)) and all(
        seat.still_seconds > _limit(seat, config) for seat in training
    )


def _limit(seat: Seat, config: Config) -> float:
    """Return the seconds without a batch beyond which a seat stands still."""
    patience = _patience(seat, config)
    return patience if seat.begun else max(STILL_BEATS * config.cluster.heartbeat_seconds, FIRST_SECONDS)


def _patience(seat: Seat, config: Config) -> float:
    """Return the seconds that a seat at work may take for a batch."""
    work = seat.telemetry
    beats = STILL_BEATS * config.cluster.heartbeat_seconds
    return max(beats, STILL_SECONDS, SLOW_STEPS * work.step_seconds / max(1, work.steps))
