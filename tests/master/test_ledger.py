"""master.ledger: durable before a reply leaves and before a lease's end counts, on another thread."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import FencedError, NoRoomError, RefusedError, UnreachableError
from common.net import control
from common.wire import methods
from common.wire.messages import Holdings, JoinReply, JoinRequest, LeaveRequest, StatusRequest
from tests.master.disk.test_recovery import begun, contents, push, trained
from tests.master.full_disk import full_disk
from tests.master.pushes import update
from tests.master.served import DEADLINE, Served, served


def test_a_push_of_a_lease_whose_end_was_not_durable_counts_once(tmp_path: Path) -> None:
    """A master that cannot save the end is killed: the next one still knows the lease, and its pushes."""
    with begun(tmp_path) as master:
        held = trained(master)
        with full_disk(), pytest.raises(NoRoomError):
            asyncio.run(master.ledger.apply(master.run.leave, LeaveRequest(held)))
        assert master.state.pairs["1/weights"].record.sequences == {held: 5}
    with begun(tmp_path) as master:
        header, pieces = update((1.0, 1.0), 5, incarnation=held)
        assert not master.parameters.push(header, pieces).applied
        assert contents(master) == [5.0, 5.0]


def test_a_lease_whose_end_was_owed_is_forgotten_with_the_next_save(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = trained(master)
        with full_disk(), pytest.raises(NoRoomError):
            asyncio.run(master.ledger.apply(master.run.leave, LeaveRequest(held)))
        # A master that starts again would know the lease: its holder is not called fenced yet.
        with pytest.raises(UnreachableError, match="not written yet"):
            push(master, held, 6, 6)
        asyncio.run(master.ledger.tick())
        with pytest.raises(FencedError):
            push(master, held, 6, 6)
        assert master.state.pairs["1/weights"].record.sequences == {}


def ask(master: Served, slave: str) -> Future[JoinReply]:
    """Ask for a lease, without waiting for the answer."""
    joining: Future[JoinReply] = asyncio.run_coroutine_threadsafe(
        master.master.ledger.apply(master.master.run.join, JoinRequest(slave)), master._loop
    )
    return joining


def test_while_the_disk_stands_still_grants_wait_and_the_event_loop_does_not(tmp_path: Path) -> None:
    disk = threading.Event()
    with served(tmp_path) as master:
        master.state.writer.submit(disk.wait)
        asked = [ask(master, slave) for slave in ("a", "b", "c")]
        # Two calls over the wire: the loop has gone through everything before.
        for _ in range(2):
            status = control.call(master.channel, methods.STATUS, StatusRequest())
        assert [seat.state for seat in status.seats] == ["training"] * 3
        assert not any(each.done() for each in asked)
        assert json.loads((tmp_path / "roster.json").read_text())["roster"]["incarnations"] == 0
        disk.set()
        assert [each.result(DEADLINE).incarnation for each in asked] == [1, 2, 3]
        assert json.loads((tmp_path / "roster.json").read_text())["roster"]["incarnations"] == 3


def test_an_event_is_in_the_log_before_the_reply_leaves(tmp_path: Path) -> None:
    with served(tmp_path) as master:
        master.join("a")
        assert '"joined"' in (tmp_path / "events.jsonl").read_text()


def test_a_refusal_is_in_the_log_before_the_master_ends(tmp_path: Path) -> None:
    holdings = Holdings(versions={"torch": "2.13.0"})
    with begun(tmp_path) as master:
        for held in (holdings, replace(holdings, versions={"torch": "1.0.0"})):
            joining = master.ledger.apply(master.run.join, JoinRequest("a", "gpu-1", holdings=held))
            if held is holdings:
                asyncio.run(joining)
            else:
                with pytest.raises(RefusedError):
                    asyncio.run(joining)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines][-1] == "refused"
