"""Starts of a master after a power cut, on damaged files, and in the middle of a rollback."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.files import load
from common.errors import FencedError, RunFailedError
from common.wire.messages import HeartbeatRequest, JoinRequest, Telemetry
from master.disk.files import DISK
from master.disk.mapped import RECORD_BYTES
from master.disk.recovery import ROLLBACK, ROSTER, UNKNOWN_GRANTS
from master.disk.snapshots import Snapshots
from master.disk.state import StateDirectory
from master.service import Master
from tests.master.pushes import creation, update

# As the kernel says it of a boot that is not this one.
OTHER_BOOT = "00000000-0000-4000-8000-000000000000"


@contextmanager
def begun(folder: Path) -> Iterator[Master]:
    """Run a master and end it without notice, as kill -9 does."""
    state = StateDirectory(folder)
    try:
        yield Master(load(None, ["network.cuts=[2]"]), state)
    finally:
        state.close()


def snap(master: Master) -> None:
    Snapshots(master.state.path / "snapshots").take(master.store, master.ledger.dump())


def push(master: Master, incarnation: int, first: int, last: int, shard: str = "1/weights") -> None:
    """Push 1 to two numbers, repeatedly."""
    for sequence in range(first, last + 1):
        header, pieces = update(
            (1.0, 1.0), sequence, incarnation=incarnation, shard=shard, next_batch=10 * sequence
        )
        assert master.parameters.push(header, pieces).applied


def trained(master: Master, *, snapshot_at: int | None = 3, pushes: int = 5) -> int:
    """Push as a slave of layer 1; returns the incarnation."""
    held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
    master.parameters.push(*creation((0.0, 0.0), incarnation=held))
    push(master, held, 1, snapshot_at or 0)
    if snapshot_at is not None:
        snap(master)
    push(master, held, (snapshot_at or 0) + 1, pushes)
    return held


def contents(master: Master, shard: str = "1/weights") -> list[float]:
    reading = master.store.read(shard)
    try:
        numbers: list[float] = np.frombuffer(reading.buffer, np.float32).tolist()
        return numbers
    finally:
        reading.release()


def event(folder: Path, what: str = "recovered") -> dict[str, Any]:
    """Last event of a kind; {} without such events."""
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    found: list[dict[str, Any]] = [line for line in lines if line["event"] == what]
    return found[-1] if found else {}


def shard_file(folder: Path) -> Path:
    return folder / "shards" / "1-weights.shard"


def tear_records(folder: Path) -> None:
    with shard_file(folder).open("r+b") as file:
        for index in (0, 1):
            file.seek(4096 + index * RECORD_BYTES + 10)
            file.write(b"\xff" * 8)


# --- another boot -----------------------------------------------------------------------------------------


def test_in_the_same_boot_nothing_is_taken_back(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = trained(master)
        assert (tmp_path / "boot").read_text() == DISK.boot() != ""
    with begun(tmp_path) as master:
        assert master.store.versions() == {"1/weights": 5}
        asyncio.run(master.ledger.apply(master.run.heartbeat, HeartbeatRequest(held, 1)))
    assert event(tmp_path) == {}


def test_after_a_power_cut_the_newest_snapshot_is_used_and_it_is_said(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = trained(master)
    (tmp_path / "boot").write_text(OTHER_BOOT)
    with begun(tmp_path) as master:
        assert master.store.versions() == {"1/weights": 3}
        assert contents(master) == [3.0, 3.0]
        assert master.store.next_batch("1/weights") == 30
        # Who trained on what is gone is fenced; the next incarnation is a new one.
        with pytest.raises(FencedError):
            push(master, held, 6, 6)
        again = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a")))
        assert (again.incarnation, again.next_batch) == (held + 1, 30)
        push(master, again.incarnation, 1, 2)
    said = event(tmp_path)
    assert (said["snapshot"], said["lost_pushes"]) == (1, 2)
    assert (said["before"], said["after"]) == ({"1/weights": 5}, {"1/weights": 3})
    assert "was restarted" in said["why"]
    assert event(tmp_path, "fenced")["incarnation"] == held
    # It was one power cut: the next start has nothing to put right.
    with begun(tmp_path) as master:
        assert contents(master) == [5.0, 5.0]


def test_a_power_cut_that_took_the_shards_files_takes_no_more(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
    (tmp_path / "boot").write_text(OTHER_BOOT)
    shutil.rmtree(tmp_path / "shards")
    with begun(tmp_path) as master:
        assert contents(master) == [3.0, 3.0]
    assert event(tmp_path)["before"] == {}


def test_a_shard_that_is_younger_than_the_snapshot_is_created_anew(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
        held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("b"))).incarnation
        master.parameters.push(*creation((0.0, 0.0), incarnation=held, shard="2/weights"))
        push(master, held, 1, 4, "2/weights")
    (tmp_path / "boot").write_text(OTHER_BOOT)
    with begun(tmp_path) as master:
        assert master.store.versions() == {"1/weights": 3}
        held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
    assert event(tmp_path)["lost_pushes"] == 6


def test_a_power_cut_before_the_first_snapshot_begins_the_run_anew(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = trained(master, snapshot_at=None)
        asyncio.run(
            master.ledger.apply(
                master.run.heartbeat, HeartbeatRequest(held, 1, Telemetry(done=True, next_batch=50))
            )
        )
    (tmp_path / "boot").write_text(OTHER_BOOT)
    with begun(tmp_path) as master:
        assert master.store.versions() == {}
        status = master.status()
        assert (status.seats[0].state, status.batches) == ("vacant", 0)
        assert asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation == held + 1
    assert (event(tmp_path)["snapshot"], event(tmp_path)["lost_pushes"]) == (0, 5)


def test_a_damaged_newest_snapshot_is_named_and_the_one_before_used(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = trained(master)
        snap(master)
        push(master, held, 6, 6)
    (tmp_path / "boot").write_text(OTHER_BOOT)
    torn = tmp_path / "snapshots" / "2" / "1-weights.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    with begun(tmp_path) as master:
        assert contents(master) == [3.0, 3.0]
    said = event(tmp_path)
    assert (said["snapshot"], said["lost_pushes"]) == (1, 3)
    assert said["damage"] == [f"{torn}: is torn or damaged (checksum)"]


def test_after_a_power_cut_damaged_snapshots_alone_are_no_reason_to_begin_anew(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
    (tmp_path / "boot").write_text(OTHER_BOOT)
    (tmp_path / "snapshots" / "1" / "snapshot.json").write_text("{}")
    said = r"snapshots/1/snapshot.json: .*no snapshot is whole"
    for _ in range(2):
        with pytest.raises(RunFailedError, match=said), begun(tmp_path):
            pass
    assert shard_file(tmp_path).exists()


def test_a_power_cut_before_a_shard_reached_the_disk_fences_everyone(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
        master.parameters.push(*creation((0.0, 0.0), incarnation=held))
    (tmp_path / "boot").write_text(OTHER_BOOT)
    shard_file(tmp_path).unlink()
    with begun(tmp_path) as master:
        with pytest.raises(FencedError):
            push(master, held, 1, 1)
        assert asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation == held + 1


# --- damage -----------------------------------------------------------------------------------------------


def test_a_damaged_shard_is_named_and_put_back_and_the_others_keep_every_push(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        other = trained(master)
        held = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("b"))).incarnation
        master.parameters.push(*creation((0.0, 0.0), incarnation=held, shard="2/weights"))
        snap(master)
        push(master, held, 1, 4, "2/weights")
        push(master, other, 6, 7)
    tear_records(tmp_path)
    with begun(tmp_path) as master:
        assert master.store.versions() == {"1/weights": 5, "2/weights": 4}
        for fenced in (held, other):
            with pytest.raises(FencedError):
                asyncio.run(master.ledger.apply(master.run.heartbeat, HeartbeatRequest(fenced)))
    said = event(tmp_path)
    assert "1-weights.shard: both records are torn" in said["damage"][0]
    assert (said["snapshot"], said["before"], said["after"]) == (2, {}, {"1/weights": 5})


def test_a_damaged_shard_that_no_snapshot_has_is_an_error(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master, snapshot_at=None)
    tear_records(tmp_path)
    for _ in range(2):
        with pytest.raises(RunFailedError, match="both records are torn"), begun(tmp_path):
            pass


@pytest.mark.parametrize("text", ["", "{", '{"checksum": 1}', '{"roster": {}}'])
def test_a_damaged_roster_is_named_and_no_incarnation_is_granted_twice(tmp_path: Path, text: str) -> None:
    with begun(tmp_path) as master:
        held = trained(master)
        late = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("b"))).incarnation
        push(master, held, 6, 6)
    (tmp_path / ROSTER).write_text(text)
    with begun(tmp_path) as master:
        # The shards are whole: no push is lost.
        assert contents(master) == [6.0, 6.0]
        for fenced in (held, late):
            with pytest.raises(FencedError):
                asyncio.run(master.ledger.apply(master.run.heartbeat, HeartbeatRequest(fenced)))
        assert (
            asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
            == held + UNKNOWN_GRANTS + 1
        )
    said = event(tmp_path)
    assert (said["lost_pushes"], len(said["damage"])) == (0, 1)
    assert ROSTER in said["damage"][0]


def test_a_damaged_roster_without_a_snapshot_is_an_error(tmp_path: Path) -> None:
    with begun(tmp_path):
        pass
    (tmp_path / ROSTER).write_text("{")
    with pytest.raises(RunFailedError, match=rf"{ROSTER}: is torn"), begun(tmp_path):
        pass


# --- half a rollback --------------------------------------------------------------------------------------


def test_a_rollback_that_was_interrupted_is_brought_to_its_end(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = trained(master)
        master.state.write(ROLLBACK, "1")
    with begun(tmp_path) as master:
        assert contents(master) == [3.0, 3.0]
        with pytest.raises(FencedError):
            push(master, held, 6, 6)
        again = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation
        push(master, again, 1, 1)
    assert (event(tmp_path)["snapshot"], event(tmp_path)["lost_pushes"]) == (1, 2)
    with begun(tmp_path) as master:
        assert contents(master) == [4.0, 4.0]


def test_a_recovery_that_was_interrupted_begins_again(tmp_path: Path) -> None:
    """After a kill between the last shard and the mark's removal, the next start repeats the rollback."""
    with begun(tmp_path) as master:
        held = trained(master)
    (tmp_path / "boot").write_text(OTHER_BOOT)
    with begun(tmp_path):
        pass
    (tmp_path / "boot").write_text(OTHER_BOOT)
    with begun(tmp_path) as master:
        assert contents(master) == [3.0, 3.0]
        assert asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation == held + 1


# --- counters ---------------------------------------------------------------------------------------------


def test_counts_go_on_after_a_power_cut(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
        asyncio.run(master.ledger.save())
    (tmp_path / "boot").write_text(OTHER_BOOT)
    with begun(tmp_path) as master:
        assert master.status().counters.pushes == 5
        assert master.status().counters.staleness == {0: 5}
