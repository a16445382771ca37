"""master.service: values handed from a master to the next, and durability before replies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.config.files import load
from common.errors import FencedError, RefusedError, RunFailedError, UnreachableError
from common.wire.messages import Evaluation, HeartbeatRequest, JoinRequest, LeaveRequest, Telemetry
from master.disk.state import StateDirectory
from master.service import Master
from tests.master.full_disk import full_disk
from tests.master.pushes import creation, update
from tests.master.served import served

TWO_LAYERS = ("network.cuts=[2]",)


@contextmanager
def begun(folder: Path, *overrides: str) -> Iterator[Master]:
    """Run a master and end it without notice, as kill -9 does."""
    state = StateDirectory(folder)
    try:
        yield Master(load(None, [*TWO_LAYERS, *overrides]), state)
    finally:
        state.close()


def saved(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "roster.json").read_text())
    return found


def test_a_grant_is_written_down_before_it_is_answered(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        reply = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a")))
    with begun(tmp_path) as master:
        asyncio.run(master.tick())
        assert (
            asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
            == reply.incarnation
            == 1
        )
        assert asyncio.run(master.ledger.apply(master.run.join, JoinRequest("b"))).incarnation == 2


def test_a_grant_that_cannot_be_written_down_is_not_answered_even_when_asked_again(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        with full_disk():
            for _ in range(2):
                with pytest.raises(RunFailedError, match="cannot be written"):
                    asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a")))
        assert asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).granted
    with begun(tmp_path) as master:
        assert asyncio.run(master.ledger.apply(master.run.join, JoinRequest("b"))).incarnation == 2


def test_to_who_joins_a_master_whose_disk_is_full_is_one_that_is_away(tmp_path: Path) -> None:
    """A slave asks again after UNAVAILABLE, and would end after any other error."""
    with served(tmp_path) as master:
        unwritten = r"roster.json: cannot be written: .*; free disk space"
        with full_disk(), pytest.raises(UnreachableError, match=unwritten):
            master.join("a")
        assert master.join("a").incarnation == 1


def test_a_tick_on_a_full_disk_says_so_and_a_later_one_writes_what_is_owed(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
        with full_disk(), pytest.raises(RunFailedError):
            asyncio.run(master.ledger.apply(master.run.leave, LeaveRequest(held, "interrupted")))
        asyncio.run(master.tick())
    with begun(tmp_path) as master, pytest.raises(FencedError):
        asyncio.run(master.ledger.apply(master.run.heartbeat, HeartbeatRequest(held)))


def test_layers_that_wait_for_nobody_begin_together_and_stop_once_all_came_through(tmp_path: Path) -> None:
    full = ["decoupling.unlock=full", "run.batches=50", "network.cuts=[1]"]
    with begun(tmp_path, *full) as master:
        first = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation

        def told(held: int, next_batch: int) -> tuple[bool, bool, bool]:
            reply = asyncio.run(
                master.ledger.apply(
                    master.run.heartbeat, HeartbeatRequest(held, 1, Telemetry(next_batch=next_batch))
                )
            )
            return reply.over, reply.begin, reply.stop

        assert told(first, 0) == (False, False, False)
        second = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("b"))).incarnation
        assert told(first, 80) == (False, True, False)
        assert told(second, 49) == (False, True, False)
        assert told(second, 50) == (False, True, True)
        assert told(first, 81) == (False, True, True)
        assert master.status().batches == 50


def test_layers_that_wait_for_each_other_are_told_nothing_before_the_run_is_over(tmp_path: Path) -> None:
    with begun(tmp_path, "network.cuts=[1]", "run.batches=50") as master:
        held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
        asyncio.run(master.ledger.apply(master.run.join, JoinRequest("b")))
        reply = asyncio.run(
            master.ledger.apply(master.run.heartbeat, HeartbeatRequest(held, 1, Telemetry(next_batch=50)))
        )
        assert (reply.over, reply.begin, reply.stop) == (False, False, False)


def test_counts_starts_and_versions_survive(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
        master.parameters.push(*creation((0.0, 0.0), incarnation=held))
        for sequence in (1, 2, 2):
            master.parameters.push(*update((1.0, 1.0), sequence, incarnation=held, next_batch=7))
        asyncio.run(
            master.ledger.apply(
                master.run.heartbeat, HeartbeatRequest(held, 1, Telemetry(steps=9, done=True))
            )
        )
    with begun(tmp_path) as master:
        status = master.status()
    assert (status.starts, status.versions) == (2, {"1/weights": 2})
    assert (status.counters.pushes, status.counters.duplicate_pushes) == (2, 1)
    assert status.counters.staleness == {0: 2}
    assert (status.seats[0].state, status.seats[0].telemetry.steps) == ("done", 9)
    assert status.state == "waiting"


def test_a_push_after_the_lease_has_ended_is_refused(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
        master.parameters.push(*creation((0.0, 0.0), incarnation=held))
        asyncio.run(master.ledger.apply(master.run.leave, LeaveRequest(held)))
        for push in (update((1.0, 1.0), incarnation=held), creation((5.0, 5.0), incarnation=held)):
            with pytest.raises(FencedError):
                master.parameters.push(*push)
        assert master.store.versions() == {"1/weights": 0}


def test_a_directory_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    with begun(tmp_path):
        pass
    with pytest.raises(RefusedError, match=r"run\.seed is 0 there and 7 here"), begun(tmp_path, "run.seed=7"):
        pass
    with begun(tmp_path) as master:
        assert master.run.config == load(None, TWO_LAYERS)


def test_the_last_evaluation_survives(tmp_path: Path) -> None:
    evaluation = Evaluation(100, 3.5, 0.25, {"1/weights": 7})
    with begun(tmp_path) as master:
        asyncio.run(master.ledger.apply(master.run.report, evaluation))
    with begun(tmp_path) as master:
        assert master.status().evaluation == evaluation


def test_every_event_of_a_lease_is_in_the_log(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
        asyncio.run(master.ledger.apply(master.run.leave, LeaveRequest(held, "tired")))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["started", "joined", "left"]
    assert (events[2]["why"], events[2]["incarnation"]) == ("tired", held)
