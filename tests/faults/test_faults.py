"""Faults by name and step, in both profiles: a run ends by itself at the error that it has without them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import psutil
import pytest

from tests.faults.scenarios import FAULTS, SCENARIOS, Scenario, outcome
from tests.faults.scene import HEARTBEAT_SECONDS
from tests.integration.processes import Cli, until

POINTS = 0.5
# Of a machine's scheduling: the roster itself is held to two heartbeats in tests/master/test_roster.py.
LATE_SECONDS = 0.25
# Of each lease that ends: the windows of its layer and of those below, each batch seen from both sides.
MOST_LOST = 2 * (5 + 3 + 1)

_without: dict[tuple[str, ...], float] = {}


def _held() -> tuple[int, int]:
    """Threads and sockets of this process."""
    return threading.active_count(), len(psutil.Process().net_connections())


def _error_without(scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Of the same cluster without a fault; it is run once."""
    if scenario.settings not in _without:
        cli = Cli(tmp_path_factory.mktemp("without"))
        try:
            _without[scenario.settings] = outcome(replace(scenario, fault="none"), cli)["test_error_percent"]
        finally:
            cli.end()
    return _without[scenario.settings]


def _most_lost(scenario: Scenario, found: dict[str, Any]) -> int:
    # In `basic` a slave that is cut off from the master goes on with its neighbours until it is replaced;
    # each of the two may miss what it did.
    alone = 2 * found["batches_meanwhile"] if scenario.profile == "basic" and found["failures"] else 0
    return int(MOST_LOST * found["failures"] + alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    [pytest.param(each, marks=[pytest.mark.long] if each.long else []) for each in SCENARIOS],
    ids=str,
)
def test_a_run_ends_by_itself_at_the_error_that_it_has_without_the_fault(
    scenario: Scenario, cli: Cli, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fault, without = FAULTS[scenario.fault], _error_without(scenario, tmp_path_factory)
    held = _held()
    try:
        found = outcome(scenario, cli)
    except PermissionError as error:
        pytest.skip(str(error))
    print(f"{scenario}: {found}, without the fault {without}")
    assert abs(found["test_error_percent"] - without) <= POINTS
    if scenario.method != "full":
        assert found["lost_batches"] <= _most_lost(scenario, found)
    assert found["layers_failed"] == list(fault.fails)
    if fault.kills:
        assert found["detection_seconds"] <= 2 * HEARTBEAT_SECONDS + LATE_SECONDS
    # What a fenced slave still sends is refused, and counted.
    assert found["fenced"] > 0 or not (fault.fails and fault.goes_on)
    assert bool(found["troubles"]) or not fault.full
    until(lambda: all(now <= then for now, then in zip(_held(), held, strict=True)), 20)
