"""Snapshots at intervals and on demand; rollbacks that fence every slave."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FencedError, LayerwiseError, NotFoundError, UnreachableError
from common.net import control
from common.wire import methods
from common.wire.messages import (
    Evaluation,
    HeartbeatRequest,
    Kept,
    RollbackReply,
    RollbackRequest,
    SnapshotRequest,
    SnapshotsRequest,
    StatusRequest,
    Telemetry,
)
from master.disk.recovery import ROLLBACK
from master.disk.state import StateDirectory
from tests.master.full_disk import full_disk
from tests.master.pushes import creation, update
from tests.master.served import Served, served


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running
        running.master.scheduler.close()


def snapshot(master: Served) -> Kept:
    return control.call(master.channel, methods.SNAPSHOT, SnapshotRequest(), shown=master.operator).snapshot


def listed(master: Served) -> list[Kept]:
    return control.call(master.channel, methods.SNAPSHOTS, SnapshotsRequest()).snapshots


def roll_back(master: Served, number: int = 0) -> RollbackReply:
    return control.call(master.channel, methods.ROLLBACK, RollbackRequest(number), shown=master.operator)


def beat(master: Served, incarnation: int, **telemetry: Any) -> None:
    master.call(methods.HEARTBEAT, HeartbeatRequest(incarnation, 1, Telemetry(**telemetry)))


def push(master: Served, incarnation: int, first: int, last: int) -> None:
    for sequence in range(first, last + 1):
        header, pieces = update((1.0, 1.0), sequence, incarnation=incarnation, next_batch=10 * sequence)
        assert master.master.parameters.push(header, pieces).applied


def contents(master: Served) -> list[float]:
    reading = master.master.store.read("1/weights")
    try:
        numbers: list[float] = np.frombuffer(reading.buffer, np.float32).tolist()
        return numbers
    finally:
        reading.release()


def begun(master: Served) -> int:
    held = master.join("a").incarnation
    master.master.parameters.push(*creation((0.0, 0.0), incarnation=held))
    return held


def events(master: Served) -> list[dict[str, Any]]:
    master.state.writer.submit(lambda: None).result()  # events are written in order on a thread
    text = (master.state.path / "events.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_snapshot_is_taken_on_demand_and_listed(master: Served) -> None:
    held = begun(master)
    assert listed(master) == []
    push(master, held, 1, 2)
    taken = snapshot(master)
    assert (taken.number, taken.versions) == (1, {"1/weights": 2})
    assert taken.nbytes > 8
    push(master, held, 3, 3)
    snapshot(master)
    assert [each.versions["1/weights"] for each in listed(master)] == [2, 3]
    file = master.state.path / "snapshots" / "2" / "1-weights.safetensors"
    file.write_bytes(b"torn")
    assert [each.damage for each in listed(master)] == ["", f"{file}: is torn or damaged (checksum)"]


def test_a_rollback_puts_the_shards_back_and_fences_everyone(master: Served) -> None:
    held = begun(master)
    push(master, held, 1, 2)
    snapshot(master)
    push(master, held, 3, 5)
    other = master.join("b").incarnation
    reply = roll_back(master)
    assert (reply.snapshot.number, reply.before, reply.fenced) == (1, {"1/weights": 5}, 2)
    assert contents(master) == [2.0, 2.0]
    for fenced in (held, other):
        with pytest.raises(FencedError):
            beat(master, fenced)
    # A push that was under way, or whose answer was lost: not even the next sequence is taken.
    for sequence in (5, 6):
        with pytest.raises(FencedError):
            master.master.parameters.push(*update((1.0, 1.0), sequence, incarnation=held))
    again = master.join("a")
    assert (again.incarnation, again.next_batch) == (other + 1, 20)
    push(master, again.incarnation, 1, 1)
    assert contents(master) == [3.0, 3.0]
    (said,) = [event for event in events(master) if event["event"] == "rolled back"]
    assert (said["snapshot"], said["fenced"]) == (1, 2)


def test_a_rollback_to_an_older_one_is_what_a_power_cut_goes_back_to(master: Served) -> None:
    held = begun(master)
    for sequence in (1, 2):
        push(master, held, sequence, sequence)
        snapshot(master)
    assert roll_back(master, 1).snapshot.versions == {"1/weights": 1}
    assert [each.versions["1/weights"] for each in listed(master)] == [1, 2, 1]
    assert master.state.read(ROLLBACK) is None
    # And forward again.
    assert roll_back(master, 2).snapshot.versions == {"1/weights": 2}
    assert contents(master) == [2.0, 2.0]


def test_a_run_that_was_done_is_not_any_more_where_it_was_not_then(master: Served) -> None:
    held = begun(master)
    push(master, held, 1, 1)
    snapshot(master)
    push(master, held, 2, 2)
    beat(master, held, done=True, next_batch=50, steps=50)
    master.do(
        master.master.ledger.apply(master.master.run.report, Evaluation(50, 2.5, 0.1, {"1/weights": 2}))
    )
    snapshot(master)
    seat = control.call(master.channel, methods.STATUS, StatusRequest()).seats[0]
    assert seat.state == "done"
    roll_back(master, 1)
    status = control.call(master.channel, methods.STATUS, StatusRequest())
    assert (status.seats[0].state, status.seats[0].telemetry.next_batch) == ("vacant", 0)
    assert status.evaluation == Evaluation()
    assert master.join("a").layer == 1
    roll_back(master, 2)
    status = control.call(master.channel, methods.STATUS, StatusRequest())
    # Layer 2 was not done: what it lacks again, only a slave of layer 1 can send.
    assert (status.seats[0].state, status.seats[0].telemetry.steps) == ("vacant", 50)
    assert [master.join(name).layer for name in ("a", "b")] == [1, 2]


def test_a_shard_that_was_not_there_then_is_none_afterwards(master: Served) -> None:
    held = master.join("a").incarnation
    empty = snapshot(master)
    master.master.parameters.push(*creation((0.0, 0.0), incarnation=held))
    push(master, held, 1, 1)
    later = snapshot(master)
    roll_back(master, empty.number)
    assert master.master.store.versions() == {}
    assert list((master.state.path / "shards").iterdir()) == []
    roll_back(master, later.number)
    assert contents(master) == [1.0, 1.0]


def test_a_snapshot_that_is_not_there_or_damaged_changes_nothing(master: Served) -> None:
    held = begun(master)
    with pytest.raises(NotFoundError, match="no snapshot 7"):
        roll_back(master, 7)
    with pytest.raises(LayerwiseError, match="there is no snapshot"):
        roll_back(master)
    snapshot(master)
    (master.state.path / "snapshots" / "1" / "1-weights.safetensors").write_bytes(b"torn")
    for number in (0, 1):
        with pytest.raises(LayerwiseError, match="torn or damaged"):
            roll_back(master, number)
    push(master, held, 1, 1)
    assert contents(master) == [1.0, 1.0]


def test_by_default_a_damaged_newest_one_is_passed_over(master: Served) -> None:
    held = begun(master)
    push(master, held, 1, 1)
    snapshot(master)
    push(master, held, 2, 2)
    snapshot(master)
    (master.state.path / "snapshots" / "2" / "snapshot.json").write_text("{}")
    assert roll_back(master).snapshot.number == 1
    assert contents(master) == [1.0, 1.0]


def test_a_rollback_that_cannot_begin_changes_nothing(master: Served) -> None:
    held = begun(master)
    snapshot(master)
    with full_disk(), pytest.raises(LayerwiseError, match="free disk space"):
        roll_back(master)
    push(master, held, 1, 1)
    assert master.join("b").granted


def test_a_rollback_that_fails_half_way_lets_nobody_in_until_it_succeeds(master: Served) -> None:
    """The disk has room for the rollback's mark, and none for the roster."""
    held = begun(master)
    push(master, held, 1, 1)
    snapshot(master)
    push(master, held, 2, 2)
    with full_disk(100), pytest.raises(LayerwiseError, match=r"roster.json: .*free disk space"):
        roll_back(master)
    with pytest.raises(UnreachableError, match="being put back to snapshot 1"):
        master.join("b")
    with pytest.raises(UnreachableError):
        snapshot(master)
    assert roll_back(master).snapshot.number == 1
    assert master.join("b").granted


def test_a_rollback_goes_on_when_who_asked_for_it_hangs_up(master: Served) -> None:
    held = begun(master)
    snapshot(master)
    push(master, held, 1, 1)
    scheduler = master.master.scheduler

    async def hang_up() -> None:
        asked = asyncio.ensure_future(scheduler.roll_back(1))
        while master.state.read(ROLLBACK) is None:
            await asyncio.sleep(0.001)
        asked.cancel()
        await scheduler.list_all()  # After it: one thing at a time.

    master.do(hang_up())
    assert contents(master) == [0.0, 0.0]
    assert master.join("b").granted


def test_snapshots_are_taken_as_time_goes_by_while_there_is_something_new(master: Served) -> None:
    held = begun(master)
    scheduler, numbers = master.master.scheduler, list[int]()

    async def some() -> None:
        keeping = asyncio.ensure_future(scheduler.take_periodically(0.01))
        for sequence in (1, 2):
            push(master, held, sequence, sequence)
            while not any(e.get("versions") == {"1/weights": sequence} for e in events(master)):
                await asyncio.sleep(0.01)
        # Nothing is new: another round takes none.
        await scheduler.take_if_changed()
        numbers.extend(each.number for each in await scheduler.list_all())
        keeping.cancel()

    master.do(some())
    assert numbers[-1] in (2, 3)
    assert listed(master)[-1].versions == {"1/weights": 2}
    # The counters are kept with it.
    assert json.loads((master.state.path / "roster.json").read_text())["counters"]["pushes"] == 2


def test_a_run_without_shards_is_not_worth_a_snapshot(master: Served) -> None:
    master.do(master.master.scheduler.take_if_changed())
    assert listed(master) == []


def test_without_room_on_the_disk_the_run_goes_on_and_it_is_said(master: Served) -> None:
    held = begun(master)
    with full_disk(100):
        master.do(master.master.scheduler.take_if_changed())
    push(master, held, 1, 1)
    assert contents(master) == [1.0, 1.0]
    assert listed(master) == []


def test_a_lease_asked_for_after_a_rollback_is_written_down(master: Served) -> None:
    begun(master)
    snapshot(master)
    roll_back(master)
    reply = master.join("c")
    saved = json.loads((master.state.path / "roster.json").read_text())
    assert saved["roster"]["incarnations"] == reply.incarnation == 2


def test_a_rollback_without_room_for_its_end_changes_nothing(
    master: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = begun(master)
    snapshot(master)
    push(master, held, 1, 1)
    monkeypatch.setattr(master.state.files, "free", lambda _: 1000)
    with pytest.raises(LayerwiseError, match=r"a rollback to snapshot 1 takes .* free disk space"):
        roll_back(master)
    assert master.state.read(ROLLBACK) is None
    push(master, held, 2, 2)
    assert contents(master) == [2.0, 2.0]


def test_a_rollback_that_stands_half_way_goes_on_by_itself_once_there_is_room(master: Served) -> None:
    held = begun(master)
    snapshot(master)
    push(master, held, 1, 1)
    with full_disk(100), pytest.raises(LayerwiseError, match="free disk space"):
        roll_back(master)

    async def some() -> None:
        keeping = asyncio.ensure_future(master.master.scheduler.take_periodically(0.01))
        with full_disk(100):
            while "half-way" not in master.master.scheduler.trouble:
                await asyncio.sleep(0.001)
        while "rolled back" not in {event["event"] for event in events(master)}:
            await asyncio.sleep(0.001)
        keeping.cancel()

    master.do(some())
    assert contents(master) == [0.0, 0.0]
    assert master.master.scheduler.trouble == ""
    assert master.join("b").granted


def test_a_damaged_shard_of_a_live_run_is_put_back_and_everyone_fenced(master: Served) -> None:
    held = begun(master)
    push(master, held, 1, 2)
    snapshot(master)
    push(master, held, 3, 3)
    pair = master.state.pairs["1/weights"]
    pair.buffers[pair.record.active][3] ^= 1
    damage = master.master.scrub.run()
    assert "of version 3 are damaged" in damage
    master.do(master.master.scheduler.repair(damage))
    assert contents(master) == [2.0, 2.0]
    with pytest.raises(FencedError):
        beat(master, held)
    assert [event["why"] for event in events(master) if event["event"] == "damaged"] == [damage]
    assert master.master.scrub.run() == ""


def test_a_damaged_shard_that_no_snapshot_has_is_said(master: Served) -> None:
    begun(master)
    pair = master.state.pairs["1/weights"]
    pair.buffers[pair.record.active][3] ^= 1
    for _ in range(2):
        master.do(master.master.scheduler.repair(master.master.scrub.run()))
    assert "no snapshot can replace the shard" in master.master.scheduler.trouble
    assert len([event for event in events(master) if event["event"] == "damaged"]) == 1


def test_a_state_directory_that_was_moved_is_not_made_anew_and_the_one_in_its_place_left_alone(
    tmp_path: Path,
) -> None:
    path, away = tmp_path / "state", tmp_path / "away"
    with served(path) as master:
        held = begun(master)
        snapshot(master)
        push(master, held, 1, 1)
        path.rename(away)
        for replaced in (False, True):
            owner = StateDirectory(path) if replaced else None
            with pytest.raises(LayerwiseError, match="moved, removed or replaced, and nothing is saved; put"):
                snapshot(master)
            with pytest.raises(LayerwiseError, match="moved, removed or replaced"):
                master.join("b")
            master.do(master.master.scheduler.take_if_changed())
            assert "put the directory back" in master.master.scheduler.trouble
            assert path.exists() == (owner is not None)
            if owner:
                assert sorted(each.name for each in path.iterdir()) == ["events.jsonl", "lock", "shards"]
                owner.close()
        shutil.rmtree(path)
        away.rename(path)
        assert snapshot(master).versions == {"1/weights": 1}
        assert [each.number for each in listed(master)] == [1, 2]
        assert master.join("b").granted
        master.master.scheduler.close()
