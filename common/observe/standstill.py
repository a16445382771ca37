"""Standstill of a run: seats that do no batch although every seat has a slave. Pure."""

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


def stands_still(status: StatusReply, config: Config) -> bool:
    """Whether no seat of a run does batches, although every seat has a slave."""
    training = [seat for seat in status.seats if seat.state == "training"]
    return bool(standing_seats(status, config)) and all(
        seat.still_seconds > _limit(seat, config) for seat in training
    )


def _limit(seat: Seat, config: Config) -> float:
    """Return the seconds without a batch beyond which a seat stands still."""
    beats = STILL_BEATS * config.cluster.heartbeat_seconds
    if not seat.begun:
        return max(beats, FIRST_SECONDS)
    work = seat.telemetry
    return max(beats, STILL_SECONDS, SLOW_STEPS * work.step_seconds / max(1, work.steps))
