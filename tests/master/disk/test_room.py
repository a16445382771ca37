"""master.disk.room: a run's values are written while the disk is full, and a kill or power cut tears none."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import FencedError
from common.wire.messages import HeartbeatRequest, JoinRequest, LeaveRequest, Telemetry
from master.disk.files import DISK
from master.disk.room import LEAST_BYTES, write_in_room
from tests.faults.simulated.disk import Disk, Killed, SimulatedFiles
from tests.master.disk.test_recovery import begun, contents, trained

FOLDER = Path("/state")
FILE = FOLDER / "roster.json"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take the last byte of a disk."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(os.sysconf("SC_PAGESIZE")))
    assert shutil.disk_usage(folder).free == 0


def test_on_a_full_disk_leases_completions_and_ends_are_recorded_and_a_master_starts(
    small_disk: Path,
) -> None:
    state = small_disk / "state"
    with begun(state) as master:
        held = trained(master)
        master.state.write("address", "127.0.0.1:7")
        fill(small_disk)
        asyncio.run(master.ledger.apply(master.run.leave, LeaveRequest(held, "interrupted")))
        taken = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("b")))
        done = HeartbeatRequest(taken.incarnation, 1, Telemetry(next_batch=800, done=True))
        asyncio.run(master.ledger.apply(master.run.heartbeat, done))
    with begun(state) as master:
        master.state.write("address", "127.0.0.1:7")
        assert contents(master) == [5.0, 5.0]
        with pytest.raises(FencedError):
            asyncio.run(master.ledger.apply(master.run.heartbeat, HeartbeatRequest(held, 2)))
        assert [seat.state for seat in master.status().seats] == ["done", "vacant"]
        asyncio.run(master.ledger.apply(master.run.leave, LeaveRequest(taken.incarnation)))


def test_a_file_that_grows_has_twice_the_room_that_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    for size in (100, LEAST_BYTES // 2 + 1, LEAST_BYTES, 10):
        write_in_room(DISK, path, "x" * size)
        assert path.read_text().rstrip() == "x" * size
        spare = tmp_path / ".roster.json.spare"
        assert path.stat().st_size >= 2 * size
        assert spare.stat().st_ino != path.stat().st_ino


def test_a_disk_that_cannot_exchange_names_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("master.disk.files._exchange", lambda source, target: False)
    for text in "abc":
        write_in_room(DISK, tmp_path / "roster.json", text)
        assert (tmp_path / "roster.json").read_text().rstrip() == text
        assert (tmp_path / ".roster.json.spare").stat().st_size == LEAST_BYTES


def simulated(seed: int) -> tuple[Disk, SimulatedFiles]:
    """An empty simulated disk, with files of a process."""
    disk = Disk(random.Random(seed))
    files = SimulatedFiles(disk, random.Random(seed), lambda *_: None)
    files.make_folder(FOLDER)
    return disk, files


def text_on(disk: Disk) -> str:
    files = SimulatedFiles(disk, random.Random(0), lambda *_: None)
    return files.read(FILE).decode().rstrip()


def test_on_a_full_disk_a_text_beyond_the_room_leaves_the_old_one() -> None:
    disk, files = simulated(0)
    write_in_room(files, FILE, "old")
    disk.full = True
    write_in_room(files, FILE, "x" * LEAST_BYTES)
    with pytest.raises(OSError, match="No space left"):
        write_in_room(files, FILE, "x" * (LEAST_BYTES + 1))
    assert text_on(disk) == "x" * LEAST_BYTES


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
def test_a_process_that_ends_at_any_operation_leaves_the_old_text_or_the_new_one(power: bool) -> None:
    ends = 0
    for seed, kill_in in itertools.product(range(40), range(1, 14)):
        disk, files = simulated(seed)
        for text in ("first", "second"):
            write_in_room(files, FILE, text * 200)
        disk.full = seed % 2 == 0
        files.kill_in = kill_in
        try:
            write_in_room(files, FILE, "third" * 200)
            write_in_room(files, FILE, "fourth" * 200)
            written: tuple[str, ...] = ("fourth",)
        except Killed:
            ends += 1
            written = ("second", "third", "fourth")
        if power:
            disk.cut_power()
        assert text_on(disk) in [text * 200 for text in written]
    assert ends > 300
