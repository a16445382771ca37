"""Every fault by name, and the step at which it strikes: when every layer is through a batch.

`outcome` plays one scenario in real processes and returns what came of it; the tests judge it, and
`python -m benchmarks faults` writes it down.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.faults.scene import HEARTBEAT_SECONDS, Scene, small_disk
from tests.integration.processes import Cli, until

AT, BATCHES, LONG_BATCHES = 100, 400, 2500
# How long the master, a link or the disk is away where no lease is to end by it, and where it must.
AWAY_SECONDS, LONG_SECONDS = 1.0, 4.0 * HEARTBEAT_SECONDS


@dataclass(frozen=True)
class Fault:
    """What strikes, and what is to come of it.

    Attributes:
        strike: does it, and undoes what heals.
        fails: the layers whose leases end by it.
        kills: whether SIGKILL is what ends the first of them.
        spares: slaves that wait for a seat.
        linked: whether it is links that it needs.
        full: whether it needs a small disk.
        goes_on: whether a slave that loses its lease lives, and learns it.
        profiles: where it can happen.
    """

    strike: Callable[[Scene], None]
    fails: tuple[int, ...] = ()
    kills: bool = False
    spares: int = 1
    linked: bool = False
    full: bool = False
    goes_on: bool = False
    profiles: tuple[str, ...] = ("light", "basic")


def _none(scene: Scene) -> None:
    """What the others are compared with."""


def _kill(layer: int) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        scene.kill_slave(layer)
        scene.replaced(layer)

    return strike


def _stop(scene: Scene) -> None:
    pid = scene.stop_slave(2)
    scene.replaced(2)
    scene.continue_slave(pid)


def _kill_master(scene: Scene) -> None:
    scene.kill_master()
    time.sleep(AWAY_SECONDS)
    scene.restart_master()


def _cut(*, asked: bool, answered: bool) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        link = scene.link(2)
        link.cut(asked=asked, answered=answered)
        scene.replaced(2)
        link.heal()

    return strike


def _cut_between(scene: Scene) -> None:
    link = scene.link_between(2)
    link.cut()
    time.sleep(LONG_SECONDS)
    link.heal()


def _slow(scene: Scene) -> None:
    scene.link(2).slow(bytes_per_second=2e6, latency=0.01)


def _fill(scene: Scene) -> None:
    with scene.full_disk():
        until(lambda: scene.troubles)
        time.sleep(AWAY_SECONDS)


def _kill_and_fill(scene: Scene) -> None:
    with scene.full_disk():
        scene.kill_slave(2)
        time.sleep(LONG_SECONDS)
    scene.replaced(2)


def _kill_without_master(scene: Scene) -> None:
    scene.kill_master()
    scene.kill_slave(2)
    time.sleep(AWAY_SECONDS)
    scene.restart_master()
    scene.replaced(2)


def _kill_two(scene: Scene) -> None:
    scene.kill_slave(1)
    scene.kill_slave(3)
    for layer in (1, 3):
        scene.replaced(layer)


def _kill_and_cut(scene: Scene) -> None:
    link = scene.link(1)
    link.cut()
    scene.kill_slave(2)
    for layer in (1, 2):
        scene.replaced(layer)
    link.heal()


FAULTS: dict[str, Fault] = {
    "none": Fault(_none),
    "slave of the bottom layer killed": Fault(_kill(1), (1,), kills=True),
    "slave of the middle layer killed": Fault(_kill(2), (2,), kills=True),
    "slave of the top layer killed": Fault(_kill(3), (3,), kills=True),
    "slave stopped past its lease, then continued": Fault(_stop, (2,), goes_on=True),
    "master killed and restarted": Fault(_kill_master),
    "link cut from slave to master": Fault(_cut(asked=True, answered=False), (2,), linked=True, goes_on=True),
    "link cut from master to slave": Fault(_cut(asked=False, answered=True), (2,), linked=True, goes_on=True),
    "link cut both ways": Fault(_cut(asked=True, answered=True), (2,), linked=True, goes_on=True),
    "link between neighbours cut both ways": Fault(_cut_between, linked=True, profiles=("basic",)),
    "slow link": Fault(_slow, linked=True),
    "disk full": Fault(_fill, full=True),
    "slave killed while the disk is full": Fault(_kill_and_fill, (2,), full=True),
    "slave killed while the master is away": Fault(_kill_without_master, (2,)),
    "two slaves killed": Fault(_kill_two, (1, 3), kills=True, spares=2),
    "slave killed while a link is cut": Fault(_kill_and_cut, (1, 2), spares=2, linked=True, goes_on=True),
}
# Beside `update`, M in the slaves.
METHODS: dict[str, tuple[str, ...]] = {
    "update": (),
    "none": ("decoupling.unlock=none",),
    "delayed": ("decoupling.unlock=delayed",),
    "full": ("decoupling.unlock=full",),
    "served M": ("cluster.synthesis=master",),
}


@dataclass(frozen=True)
class Scenario:
    """One fault in one cluster.

    Where slaves go on without their master, a second of it is many batches: the run is `long`, lest that be
    most of it.
    """

    fault: str
    profile: str = "light"
    method: str = "update"
    long: bool = False

    def __str__(self) -> str:
        length = " (long)" if self.long else ""
        return f"{self.fault}{length}, {self.profile}, {self.method}"

    @property
    def batches(self) -> int:
        """How long its run is."""
        return LONG_BATCHES if self.long else BATCHES

    @property
    def settings(self) -> tuple[str, ...]:
        """Its part of the configuration."""
        return (f"run.batches={self.batches}", f"cluster.profile={self.profile}", *METHODS[self.method])


def _goes_on(fault: Fault, profile: str) -> bool:
    """Whether a slave trains on while it is cut off from the master."""
    return profile == "basic" and fault.linked and bool(fault.fails)


SCENARIOS = [
    *(
        Scenario(name, profile, long=_goes_on(fault, profile))
        for name, fault in FAULTS.items()
        for profile in fault.profiles
        if name != "none"
    ),
    *(
        Scenario(name, "light", method, long=method == "full")
        for method in METHODS
        if method != "update"
        for name in ("slave of the middle layer killed", "master killed and restarted")
    ),
]


def outcome(scenario: Scenario, cli: Cli) -> dict[str, Any]:
    """Play a scenario to its end.

    Raises:
        PermissionError: this process may not mount the small disk that it needs.
        AssertionError: the run did not end by itself, or something was left over.
    """
    fault = FAULTS[scenario.fault]
    temporary = cli.folder / "tmp"
    temporary.mkdir()
    cli.environment["TMPDIR"] = str(temporary)
    with ExitStack() as stack:
        if fault.full:
            stack.enter_context(small_disk(cli.folder / "state"))
        scene = stack.enter_context(Scene(cli, scenario.settings, spares=fault.spares, linked=fault.linked))
        scene.through(AT)
        scene.strike()
        fault.strike(scene)
        meanwhile = scene.furthest() - scene.batches_then
        found = scene.finish()
        failed = {layer: scene.happened("failed", layer) for layer in fault.fails}
        detected = [event["time"] - scene.struck_at for event in failed.values() if event]
        found |= {
            "layers_failed": [layer for layer, event in failed.items() if event],
            "batches_meanwhile": meanwhile,
            "failures": sum(event["event"] == "failed" for event in scene.events()),
            "detection_seconds": round(max(detected), 2) if detected else None,
            "recovery_seconds": round(scene.stood_still(), 2) if scenario.fault != "none" else None,
            "troubles": sorted(scene.troubles),
        }
    assert not list(temporary.iterdir())
    return found
