"""Promises under simulated faults at scale; a broken promise replays by its seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.shards.pushes import Header, Operation, PushReply
from common.shards.working_copy import Push
from common.wire.messages import JoinRequest, Telemetry
from master.disk import room, state
from master.disk.files import Files
from master.ledger import Ledger
from master.roster import Roster
from master.store.shard import Record, Shard
from master.store.store import Store
from tests.faults.simulated.__main__ import run_seeds, summarize
from tests.faults.simulated.layers import SLOTS
from tests.faults.simulated.oracle import FAILED, FENCED, LOST, REPEATED, TWICE, UNFINISHED, Oracle
from tests.faults.simulated.plan import SECONDS_BETWEEN, draw_plan
from tests.faults.simulated.world import simulate
from tests.master.keys import KEYRING

ROOT = Path(__file__).parents[3]
SEEDS = int(os.environ.get("LAYERWISE_SEEDS", "1000"))


def first_broken(promises: tuple[str, ...], seeds: range) -> int | None:
    """Find the first seed that breaks one of some promises."""
    for seed in seeds:
        if any(promise in promises for promise in simulate(seed).violations):
            return seed
    return None


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_thousand_runs_under_faults_keep_every_promise() -> None:
    summary = summarize(run_seeds(range(SEEDS)), 0.0)
    assert summary["failing"] == [], json.dumps(summary, indent=1)
    counts = summary["counts"]
    assert isinstance(counts, dict)
    # The faults did strike, and work was done beside them.
    assert counts["masters"] > 2 * SEEDS
    assert counts["acknowledged"] > 20 * SEEDS
    assert counts["given up"] > SEEDS / 10


def test_a_few_runs_keep_every_promise() -> None:
    assert [outcome.details for outcome in map(simulate, range(8)) if outcome.violations] == []


# Seeds that broke a promise once, with the reason.
@pytest.mark.parametrize(
    "seed",
    [
        # Slaves changed faster than they pushed, and no problem was shown while every seat was taken.
        1352,
        # A rollback undid two pushes between two looks of the simulation, which took this for a standstill.
        13715,
    ],
)
def test_a_seed_that_broke_a_promise_keeps_every_promise(seed: int) -> None:
    assert simulate(seed).details == []


def test_every_kind_of_fault_and_every_unlock_is_drawn() -> None:
    plans = [draw_plan(seed) for seed in range(100)]
    assert {kind for plan in plans for kind in plan.faults} == set(SECONDS_BETWEEN)
    assert {plan.config.decoupling.unlock for plan in plans} == {"none", "update", "full", "delayed", "local"}
    assert {plan.config.cluster.profile for plan in plans} == {"light", "basic"}
    assert {plan.config.replicas[0] for plan in plans} == {1, 2}


def test_a_seed_replays_to_the_bit_in_another_process() -> None:
    code = (
        "from tests.faults.simulated.world import simulate\n"
        "print(*(simulate(seed).digest for seed in (3, 8, 9)))"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert digests[0] == digests[1]
    assert len({*digests[0].split()}) == 3


# --- the checker can fail ---------------------------------------------------------------------------------


def unsynced(files: Files, path: Path, text: str) -> None:
    """Write a small file, and leave it in the cache."""
    with files.create(path) as file:
        file.write(text.encode())


def unsynced_in_room(files: Files, path: Path, content: bytes) -> None:
    """Write over a file in its room, and leave the content in the cache."""
    with files.overwrite(path) as file:
        file.reserve(room.LEAST_BYTES)
        file.write(content.ljust(files.size(path)))


def applied_again(store: Store, header: Any, source: Any, admit: Callable[[], object]) -> Any:
    """Forget the sender's last sequence before each push."""
    shard = store._target(header)
    record = shard.pair.record
    shard.pair.record = Record(**{**vars(record), "sequences": {}})
    return land(store, header, source, admit)


land, claim_idle = Store.land, Shard.claim_idle


def in_place(shard: Shard) -> Any:
    """Land a push in the buffer that holds the shard."""
    claim_idle(shard)
    return shard.pair.buffers[shard.pair.record.active]


async def without_saving(ledger: Ledger) -> None:
    """Answer before the values are durable."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "broken", "promises"),
    [
        (state, "write_durably", unsynced, (FAILED, REPEATED, LOST, UNFINISHED)),
        (room, "_fill", unsynced_in_room, (FAILED, REPEATED, LOST, UNFINISHED)),
        (Store, "land", applied_again, (TWICE,)),
        (Shard, "claim_idle", in_place, (TWICE, LOST)),
        (Ledger, "_write", without_saving, (REPEATED, FENCED, TWICE)),
    ],
)
def test_a_promise_that_is_broken_on_purpose_is_noticed(
    owner: Any, name: str, broken: Any, promises: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    if owner is state:
        monkeypatch.setattr("master.disk.snapshots.write_durably", broken)
    assert first_broken(promises, range(300)) is not None


def test_a_push_of_an_ended_lease_is_noticed() -> None:
    oracle, roster = Oracle(), Roster([1], 1.0, 2, keyring=KEYRING)
    lease, _ = roster.join(JoinRequest("a"), 0.0)
    oracle.granted("a", lease)
    oracle.slot(lease.incarnation)
    header = Header("1/weights", Operation.UPDATE, incarnation=lease.incarnation, sequence=1)
    numbers = np.zeros(SLOTS, np.float32)
    numbers[0] = 1
    push = Push(header, numbers.view(np.uint8))
    oracle.sent(push)
    oracle.settled(roster)
    assert oracle.violations == {}
    roster.leave(lease.incarnation, Telemetry(), "")
    oracle.settled(roster)
    oracle.answered(push, PushReply("1/weights", 1, 1, applied=True))
    assert oracle.violations == {FENCED: 1}
