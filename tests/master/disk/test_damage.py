"""Damaged, strange and missing files of a master: repaired, or refused in a line that names them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FencedError, MalformedError, RefusedError, RunFailedError
from common.shards.table import RESERVED_NAME, check_table, lay_out
from common.wire.messages import HeartbeatRequest, JoinRequest
from master.disk import mapped
from master.disk.mapped import AT_ONCE_BYTES, PIECE_BYTES, RECORD_BYTES
from master.disk.recovery import ROLLBACK, ROSTER
from master.disk.scrub import Scrub
from master.disk.state import StateDirectory, seal, unseal
from master.store.store import Store
from tests.master.disk.test_recovery import begun, contents, event, snap, trained
from tests.master.pushes import creation, update

BUFFERS = 4096 + 2 * RECORD_BYTES


def shard_file(folder: Path) -> Path:
    return folder / "shards" / "1-weights.shard"


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Flip a bit of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def active_byte(state: StateDirectory, offset: int = 0) -> int:
    """Position in the file of a byte of the active buffer of 1/weights."""
    pair = state.pairs["1/weights"]
    size = -(-pair.buffers[0].nbytes // 4096) * 4096
    return BUFFERS + pair.record.active * size + offset


def large_store(state: StateDirectory, pieces: int = 3) -> Store:
    """Store of a shard of some pieces, after a push."""
    count = pieces * PIECE_BYTES // 4
    store = Store(state)
    store.create(*creation(np.zeros(count)))
    store.apply(*update(np.ones(count), 1))
    return store


def begin_in_vain(folder: Path, said: str) -> None:
    """Start a master that has to refuse."""
    with pytest.raises(RunFailedError, match=said), begun(folder):
        pass


# --- flipped bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_in_a_shard_is_found_at_the_start_and_put_back(tmp_path: Path, bit: int) -> None:
    with begun(tmp_path) as master:
        held = trained(master)
        place = active_byte(master.state)
    flip(shard_file(tmp_path), place, bit)
    with begun(tmp_path) as master:
        assert contents(master) == [3.0, 3.0]
        with pytest.raises(FencedError):
            asyncio.run(master.ledger.apply(master.run.heartbeat, HeartbeatRequest(held)))
    said = event(tmp_path)
    assert "1-weights.shard: bytes 0 to 8 of version 5 are damaged (checksum)" in said["damage"][0]
    assert said["snapshot"] == 1


def test_a_flipped_bit_in_a_shard_without_a_snapshot_is_an_error(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master, snapshot_at=None)
        place = active_byte(master.state, 5)
    flip(shard_file(tmp_path), place)
    for _ in range(2):
        begin_in_vain(tmp_path, r"1-weights\.shard: .*damaged \(checksum\); restore")


def test_a_flipped_bit_in_the_idle_buffer_is_no_damage(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
        pair = master.state.pairs["1/weights"]
        place = BUFFERS + (1 - pair.record.active) * 4096
    flip(shard_file(tmp_path), place)
    with begun(tmp_path) as master:
        assert contents(master) == [5.0, 5.0]


def test_a_large_version_has_checksums_once_it_rests(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    store = large_store(state)
    pair = state.pairs["1/weights"]
    assert pair.buffers[0].nbytes > AT_ONCE_BYTES
    assert pair.checksums == []
    scrub = Scrub(state, duty=1.0)
    assert scrub.run() == ""
    assert len(pair.checksums) == 3
    # A departed slave's record and a restart keep the checksums, and a push drops them.
    store.forget(1)
    state.close()
    state = StateDirectory(tmp_path)
    store = Store(state)
    pair = state.pairs["1/weights"]
    assert len(pair.checksums) == 3
    store.apply(*update(np.ones(pair.table.nbytes // 4), 1, incarnation=2))
    assert pair.checksums == []
    state.close()


@pytest.mark.parametrize("piece", [0, 2])
def test_the_scrub_finds_a_flipped_bit_and_names_the_place(tmp_path: Path, piece: int) -> None:
    state = StateDirectory(tmp_path)
    large_store(state)
    scrub = Scrub(state, duty=1.0)
    assert scrub.run() == ""
    flip(shard_file(tmp_path), active_byte(state, piece * PIECE_BYTES + 77), 3)
    start = piece * PIECE_BYTES
    wanted = f"1-weights.shard: bytes {start} to {start + PIECE_BYTES} of version 1 are damaged (checksum)"
    assert scrub.run().endswith(wanted)
    state.close()


def test_a_push_during_a_scrub_is_neither_damage_nor_summed(tmp_path: Path) -> None:
    """Two pushes overwrite the buffer that the scrub reads."""
    state = StateDirectory(tmp_path)
    store = large_store(state)
    pair, pushes = state.pairs["1/weights"], iter(range(2, 4))

    def interrupt() -> None:
        for sequence in pushes:
            store.apply(*update(np.ones(pair.table.nbytes // 4), sequence))

    assert pair.scrub(interrupt) == ""
    assert pair.record.version == 3
    assert pair.checksums == []
    state.close()


def test_a_damaged_version_is_not_taken_into_a_snapshot(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
        flip(shard_file(tmp_path), active_byte(master.state))
        with pytest.raises(RunFailedError, match="a snapshot would keep the damage"):
            snap(master)
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == ["1"]


def test_a_shard_of_many_pieces_keeps_to_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "PIECE_BYTES", 4096)
    monkeypatch.setattr(mapped, "MOST_PIECES", 100)
    state = StateDirectory(tmp_path)
    large_store(state)
    assert Scrub(state, duty=1.0).run() == ""
    assert 90 <= len(state.pairs["1/weights"].checksums) <= 100
    state.close()


# --- names ------------------------------------------------------------------------------------------------


def test_a_tensor_named_as_the_formats_metadata_is_refused_at_the_door() -> None:
    with pytest.raises(MalformedError, match=f"no tensor can be named {RESERVED_NAME}; rename"):
        check_table(lay_out([(RESERVED_NAME, "float32", (2,), "parameter")]))


# --- strange files ----------------------------------------------------------------------------------------


def strange(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00roster")


def folder_instead(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def test_a_roster_that_is_no_text_is_replaced_from_the_snapshot(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = trained(master)
    strange(tmp_path / ROSTER)
    with begun(tmp_path) as master:
        assert contents(master) == [5.0, 5.0]
        assert asyncio.run(master.ledger.apply(master.run.join, JoinRequest("a"))).incarnation > held
    assert f"{ROSTER}: is no UTF-8" in event(tmp_path)["damage"][0]


@pytest.mark.parametrize("name", [ROSTER, "config.toml"])
@pytest.mark.parametrize(("harm", "said"), [(strange, "is no UTF-8"), (folder_instead, "cannot be read")])
def test_a_small_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, harm: Callable[[Path], None], said: str
) -> None:
    with begun(tmp_path):
        pass
    harm(tmp_path / name)
    begin_in_vain(tmp_path, f"{name}: {said}")


def test_a_boot_that_is_no_text_vouches_for_nothing(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
    strange(tmp_path / "boot")
    with begun(tmp_path) as master:
        assert contents(master) == [3.0, 3.0]
    assert "was restarted" in event(tmp_path)["why"]


def test_a_rollbacks_mark_that_names_no_snapshot_is_an_error(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
        for wanted in ("", "one", "7"):
            (tmp_path / ROLLBACK).write_text(wanted)
            master.state.close()
            begin_in_vain(tmp_path, rf"{ROLLBACK}: cannot be finished: .*\[1\]")


def test_an_interrupted_rollback_to_a_damaged_snapshot_is_an_error_and_changes_nothing(
    tmp_path: Path,
) -> None:
    with begun(tmp_path) as master:
        trained(master)
        master.state.write(ROLLBACK, "1")
    file = tmp_path / "snapshots" / "1" / "1-weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    begin_in_vain(tmp_path, r"cannot be finished: .*torn or damaged")
    (tmp_path / ROLLBACK).unlink()
    with begun(tmp_path) as master:
        assert contents(master) == [5.0, 5.0]


def test_a_folder_in_a_shards_place_is_named(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master, snapshot_at=None)
    shard_file(tmp_path).unlink()
    shard_file(tmp_path).mkdir()
    begin_in_vain(tmp_path, r"1-weights\.shard: cannot be read: Is a directory")


def test_a_truncated_shard_is_put_back_from_the_snapshot(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
    os.truncate(shard_file(tmp_path), BUFFERS + 100)
    with begun(tmp_path) as master:
        assert contents(master) == [3.0, 3.0]
    assert "the size does not fit the table" in event(tmp_path)["damage"][0]


def test_shards_that_are_gone_are_put_back_from_the_snapshot(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master)
    shutil.rmtree(tmp_path / "shards")
    with begun(tmp_path) as master:
        assert contents(master) == [3.0, 3.0]
    assert "1-weights.shard: is missing" in event(tmp_path)["damage"][0]


def test_a_state_directory_whose_log_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(RefusedError, match="cannot be used as a state directory: Is a directory"):
        StateDirectory(tmp_path)


# --- numbers out of range ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"counters": {"pushes": -1}}, "pushes = -1 is out of range"),
        ({"counters": {"pulls": 2**53}}, "pulls = 9007199254740992 is out of range"),
        ({"counters": {"fenced": 1.5}}, "fenced = 1.5 is no whole number"),
        ({"staleness": {"1": {"2000": 1}}}, r"a key of staleness\[1\] = 2000 is out of range"),
        ({"staleness": {"-1": {}}}, "a key of staleness = -1 is out of range"),
        ({"refused": {"1": True}}, r"refused\[1\] = True is no whole number"),
        ({"refused": [3]}, r"refused = \[3\] is no table"),
    ],
)
def test_a_saved_count_out_of_range_is_named_with_its_file(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    with begun(tmp_path) as master:
        trained(master, snapshot_at=None)
    saved = unseal((tmp_path / ROSTER).read_text(), tmp_path / ROSTER)
    (tmp_path / ROSTER).write_text(seal({**saved, **values}))
    begin_in_vain(tmp_path, rf"{ROSTER}: {said}.*; restore the file from a copy")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"version": -1}, "version = -1 is out of range"),
        ({"active": 2}, "active = 2 is out of range"),
        ({"progress": {-1: 0}}, "a key of progress = -1 is out of range"),
        ({"sequences": {1: 2**64}}, r"sequences\[1\] = 18446744073709551616 is out of range"),
        ({"steps": 0.5}, "steps = 0.5 is no whole number"),
        ({"refused": [-3]}, "refused = -3 is out of range"),
    ],
)
def test_a_number_of_a_commit_out_of_range_is_named_with_its_file(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    with begun(tmp_path) as master:
        trained(master, snapshot_at=None)
        pair = master.state.pairs["1/weights"]
        pair._write(dataclasses.replace(pair.record, **values), [])
    begin_in_vain(
        tmp_path, rf"1-weights.shard: the record of commit 7: {said}.*; restore the state directory"
    )


def test_checksums_that_do_not_fit_the_buffer_are_an_error(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        trained(master, snapshot_at=None)
        pair = master.state.pairs["1/weights"]
        pair._write(pair.record, [1, 2])
    begin_in_vain(tmp_path, r"1-weights.shard: .*: 2 checksums do not fit the buffer")
