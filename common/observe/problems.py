"""Problems of a run with advice, the worst first, derived from the master's status alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from common.config.sections import Config
from common.observe.standstill import changes_in_vain, standing_seats, stands_still
from common.wire.messages import Seat, StatusReply
from common.wire.use import Utilization

# In percent: above these bounds a machine has nearly run out of disk or memory.
DISK_FULL, MEMORY_FULL = 90.0, 95.0
# M's gradient helps above this cosine to the true gradient, once M has learned for this many steps.
COSINE, RIPE_STEPS = 0.05, 200
# A layer with a larger part of its pushes refused has a problem, not an accident.
REFUSED = 0.1


@dataclass(frozen=True)
class Problem:
    """A problem of the run, with advice."""

    what: str
    advice: str


def problems(status: StatusReply, config: Config, slave: str) -> list[Problem]:
    """List the problems of a run, the worst first.

    Args:
        status: status that the master reports.
        config: the run's configuration.
        slave: command of another slave, for the advice.
    """
    found = [*_damaged_stores(status), *_machines(status)]
    if status.state != "done":
        found = [
            *_vacant(status, slave),
            *_missing(status, slave),
            *_late(status, config),
            *_awaited_stores(status),
            *find_standstill(status, config),
            *_boundaries(status),
            *found,
        ]
    found += [*_snapshots(status), *_learning(status, config), *_stale(status, config), *_refused(status)]
    return found


def seat_name(seat: Seat) -> str:
    """Name a seat for people; replicas count from 0."""
    return f"layer {seat.layer}" + (f" (replica {seat.replica})" if seat.replica else "")


def _vacant(status: StatusReply, slave: str) -> Iterator[Problem]:
    vacant = [seat for seat in status.seats if seat.state == "vacant"]
    advice = f"start a slave: {slave}"
    if status.waiting_slaves >= len(vacant):
        advice = "a waiting slave takes over"
    lost = [seat_name(seat) for seat in vacant if seat.grants]
    if lost:
        yield Problem(f"{', '.join(lost)}: the slave has failed or left", advice)
    new = [seat_name(seat) for seat in vacant if not seat.grants]
    if new:
        yield Problem(f"{', '.join(new)}: no slave yet", advice)


def _missing(status: StatusReply, slave: str) -> Iterator[Problem]:
    change = status.resizing
    if change.missing and not change.start:
        count = "1 more slave" if change.missing == 1 else f"{change.missing} more slaves"
        counts = " ".join(map(str, change.replicas))
        yield Problem(
            f"the change to {counts} replicas by layer waits for {count}", f"start each of them: {slave}"
        )


def _late(status: StatusReply, config: Config) -> Iterator[Problem]:
    cluster = config.cluster
    patience = cluster.heartbeat_seconds * cluster.misses
    for seat in status.seats:
        if seat.state == "late":
            slave, silence = f"{seat.host}:{seat.pid}", seat.lease_age
            yield Problem(
                f"{seat_name(seat)}: no heartbeat of its slave {slave} for {silence:.1f} s",
                f"the seat passes on after {patience:g} s; check for an overloaded machine or a slow network",
            )


def _awaited_stores(status: StatusReply) -> Iterator[Problem]:
    for store in status.stores:
        if store.state == "late":
            yield Problem(
                f"store {store.number} ({store.host}:{store.pid}): no report for {store.report_age:.1f} s; "
                "the slaves of its layers wait, and no snapshot is taken",
                "start it again on its directory: layerwise store, with the same --state-dir",
            )
        elif store.state == "awaited":
            yield Problem(
                f"store {store.number}: has not joined this master yet; slaves wait",
                "start it: layerwise store, with a --state-dir of its own",
            )


def _damaged_stores(status: StatusReply) -> Iterator[Problem]:
    for store in status.stores:
        if store.trouble:
            yield Problem(
                f"store {store.number}: {store.trouble}",
                "the run goes back to its newest whole snapshot by itself; without one, begin it anew",
            )


def find_standstill(status: StatusReply, config: Config) -> Iterator[Problem]:
    """Yield the problem of a run that stands still, or partly does."""
    seats = standing_seats(status, config)
    if not seats:
        if changes_in_vain(status, config):
            yield _changing(status)
        return
    seconds = min(seat.still_seconds for seat in seats)
    names = ", ".join(f"{seat_name(seat)} ({seat.host}:{seat.pid})" for seat in seats)
    advice = "look at the logs of these slaves, and at the links between their machines and the master's"
    why = f"every slave waits for a message: {names}"
    if not all(seat.telemetry.waits for seat in seats):
        advice = "look at the slave's log and machine; if it hangs, end its process, and a successor goes on"
        why = f"{names} neither waits nor ends a batch"
    if stands_still(status, config):
        yield Problem(f"the run stands still: no batch for {seconds:.0f} s, and {why}", advice)
    else:
        yield Problem(f"{names}: no batch for {seconds:.0f} s, while others go on", advice)


def _changing(status: StatusReply) -> Problem:
    count = status.successors
    return Problem(
        f"the run stands still: no progress for {status.still_seconds:.0f} s, although "
        f"{count:,} {'slave has' if count == 1 else 'slaves have'} taken over a seat since then",
        "give a new slave time for its first batch; if slaves go on ending, events.jsonl in the state "
        "directory says why each lease ended",
    )


def _boundaries(status: StatusReply) -> Iterator[Problem]:
    top = max((seat.layer for seat in status.seats), default=0)
    for seat in status.seats:
        report, k = seat.telemetry, seat.layer
        # Layer K may send to every layer.
        above = f"layer {k + 1}{' or above' if k + 1 < top else ''}"
        for side, refused in (
            (f"layer {k - 1}", report.refused_from_below),
            (above, report.refused_from_above),
        ):
            if refused:
                yield Problem(
                    f"{seat_name(seat)}: refused {refused:,} messages of {side}, malformed, of another "
                    "shape, or with NaN or Inf",
                    f"see the log of {seat.host}:{seat.pid}; check that {side} has the same code, and lower "
                    "optimizer.learning_rate if the loss has grown",
                )


def _machines(status: StatusReply) -> Iterator[Problem]:
    """Yield every machine's problems once, from the slave with the fullest disk or memory."""
    reports = [(seat.host, seat.telemetry.utilization) for seat in status.seats if seat.incarnation]
    stores = [(f"store {each.number}", each.utilization) for each in status.stores]
    for name, fullest in [
        ("the master's machine", status.utilization),
        *stores,
        *_by_host(reports).items(),
    ]:
        if fullest.disk_percent >= DISK_FULL:
            yield Problem(
                f"{name}: its disk is {fullest.disk_percent:.0f} % full",
                "free space; a full disk stops snapshots, then pushes",
            )
        if fullest.memory_percent >= MEMORY_FULL:
            yield Problem(
                f"{name}: its memory is {fullest.memory_percent:.0f} % full",
                "move slaves to another machine, or change K, network.layers",
            )


def _by_host(reports: list[tuple[str, Utilization]]) -> dict[str, Utilization]:
    hosts: dict[str, Utilization] = {}
    for host, report in reports:
        known = hosts.get(host, report)
        hosts[host] = max(
            known, report, key=lambda machine: max(machine.disk_percent, machine.memory_percent)
        )
    return hosts


def _snapshots(status: StatusReply) -> Iterator[Problem]:
    if status.snapshot_trouble:
        yield Problem(f"snapshots: {status.snapshot_trouble}", "take a new one: layerwise snapshot")


def _learning(status: StatusReply, config: Config) -> Iterator[Problem]:
    for seat in status.seats:
        report = seat.telemetry
        losses = (
            report.loss, report.own_loss, report.gradient_loss, report.input_loss, report.time_loss,
            report.time_aux_loss,
        )  # fmt: skip
        if not all(map(math.isfinite, losses)):
            yield Problem(
                f"{seat_name(seat)}: its loss is NaN or infinite",
                "lower optimizer.learning_rate, and go back: layerwise rollback",
            )
        # A gradient_loss of 0 means that there is no M, or that M has not learned yet.
        ripe = report.gradient_loss > 0 and report.steps >= RIPE_STEPS
        if report.fallback:
            yield Problem(
                f"{seat_name(seat)}: waits for true gradients, as M's cosine is {report.gradient_cosine:.2f}",
                "the layer returns to M's gradients by itself once they are good enough",
            )
        elif ripe and report.gradient_cosine < COSINE:
            yield Problem(
                f"{seat_name(seat)}: M's gradient has cosine {report.gradient_cosine:.2f} to the true one",
                f'M does not help; try another decoupling.gradient than "{config.decoupling.gradient}", or '
                "another optimizer.synthesizer.learning_rate",
            )


def _stale(status: StatusReply, config: Config) -> Iterator[Problem]:
    for layer in status.layers:
        pushes = sum(layer.staleness.values()) + layer.refused
        if layer.refused > REFUSED * pushes:
            yield Problem(
                f"layer {layer.layer}: {layer.refused:,} of {pushes:,} pushes were refused as staler than "
                f"downpour.bound = {config.downpour.bound}",
                "raise the bound, or lower downpour.n_fetch and n_push",
            )


def _refused(status: StatusReply) -> Iterator[Problem]:
    counters = status.counters
    if counters.malformed:
        yield Problem(
            f"{counters.malformed:,} malformed messages were refused",
            "check that every slave has the same version of layerwise, the same network and the same data",
        )
    if counters.fenced:
        yield Problem(
            f"{counters.fenced:,} messages of slaves that had lost their lease were refused",
            "no harm is done; events.jsonl in the state directory says why each lease ended",
        )
