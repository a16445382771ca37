"""What is wrong with a run, in plain words and the worst first, from the master's status alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from common.config.sections import Config
from common.wire.messages import Seat, StatusReply, Utilization

# In percent: from here on a machine is nearly out of it.
DISK_FULL, MEMORY_FULL = 90.0, 95.0
# M's gradient is of use above this cosine to the true one, once it has learned for so many steps.
COSINE, RIPE_STEPS = 0.05, 200
# So large a part of a layer's pushes refused is more than an accident.
REFUSED = 0.1


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do about it."""

    what: str
    advice: str


def problems(status: StatusReply, config: Config, master: str) -> list[Problem]:
    """What is wrong with a run, the worst first.

    Args:
        status: what its master says.
        config: of the run.
        master: its address, for what is to be typed.
    """
    found = [*_machines(status)]
    if status.state != "done":
        found = [*_vacant(status, master), *_late(status, config), *found]
    found += [*_kept(status), *_learning(status, config), *_stale(status, config), *_refused(status)]
    return found


def named(seat: Seat) -> str:
    """A seat as a person calls it; replicas from 0."""
    return f"layer {seat.layer}" + (f" (replica {seat.replica})" if seat.replica else "")


def _vacant(status: StatusReply, master: str) -> Iterator[Problem]:
    vacant = [seat for seat in status.seats if seat.state == "vacant"]
    advice = f"start one: layerwise slave --master {master}"
    if status.waiting_slaves >= len(vacant):
        advice = "one that waits takes it over"
    lost = [named(seat) for seat in vacant if seat.grants]
    if lost:
        yield Problem(f"{', '.join(lost)}: the slave has failed or left", advice)
    new = [named(seat) for seat in vacant if not seat.grants]
    if new:
        yield Problem(f"{', '.join(new)}: no slave yet", advice)


def _late(status: StatusReply, config: Config) -> Iterator[Problem]:
    cluster = config.cluster
    patience = cluster.heartbeat_seconds * cluster.misses
    for seat in status.seats:
        if seat.state == "late":
            who, silent = f"{seat.host}:{seat.pid}", seat.lease_age
            yield Problem(
                f"{named(seat)}: its slave {who} was last heard of {silent:.1f} s ago",
                f"its seat passes on after {patience:g} s; is its machine overloaded, or the network slow?",
            )


def _machines(status: StatusReply) -> Iterator[Problem]:
    """Of each machine once, by the slave that found the least left."""
    told = [(seat.host, seat.telemetry.utilization) for seat in status.seats if seat.incarnation]
    for name, least in [("the master's machine", status.utilization), *_by_host(told).items()]:
        if least.disk_percent >= DISK_FULL:
            yield Problem(
                f"{name}: its disk is {least.disk_percent:.0f} % full",
                "free space; a full disk ends snapshots, then pushes",
            )
        if least.memory_percent >= MEMORY_FULL:
            yield Problem(
                f"{name}: its memory is {least.memory_percent:.0f} % full",
                "move slaves to another machine, or give network.layers another K",
            )


def _by_host(told: list[tuple[str, Utilization]]) -> dict[str, Utilization]:
    hosts: dict[str, Utilization] = {}
    for host, each in told:
        known = hosts.get(host, each)
        hosts[host] = max(known, each, key=lambda machine: max(machine.disk_percent, machine.memory_percent))
    return hosts


def _kept(status: StatusReply) -> Iterator[Problem]:
    if status.snapshot_trouble:
        yield Problem(f"snapshots: {status.snapshot_trouble}", "take a new one: layerwise snapshot")


def _learning(status: StatusReply, config: Config) -> Iterator[Problem]:
    for seat in status.seats:
        told = seat.telemetry
        if not all(map(math.isfinite, (told.loss, told.gradient_loss, told.input_loss))):
            yield Problem(
                f"{named(seat)}: its loss is no number any more",
                "lower optimizer.learning_rate, and go back: layerwise rollback",
            )
        # Without an M, or before it has learned anything, there is neither.
        ripe = told.gradient_loss > 0 and told.steps >= RIPE_STEPS
        if told.fallback:
            yield Problem(
                f"{named(seat)}: it waits for true gradients: M's cosine is {told.gradient_cosine:.2f}",
                "it comes back to M's by itself once they are good enough",
            )
        elif ripe and told.gradient_cosine < COSINE:
            yield Problem(
                f"{named(seat)}: M's gradient has a cosine of {told.gradient_cosine:.2f} to the true one",
                f'it does not help; try another decoupling.gradient than "{config.decoupling.gradient}", or '
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
            "has every slave the same version of layerwise, and the same network and data?",
        )
    if counters.fenced:
        yield Problem(
            f"{counters.fenced:,} messages of slaves that had lost their lease were refused",
            "no harm is done; why they lost it is in events.jsonl of the state directory",
        )
