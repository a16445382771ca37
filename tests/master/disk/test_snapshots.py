"""Snapshots: a version of every shard in safetensors files, whole or named as damaged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from common.errors import NotFoundError, RunFailedError
from common.shards.pushes import Header, Operation
from common.shards.table import lay_out
from master.disk import shard_file as writing
from master.disk.files import DiskFiles
from master.disk.retention import HOUR, NEWEST
from master.disk.shard_file import OPTIMIZER_STATE
from master.disk.snapshots import MANIFEST, Snapshot, Snapshots
from master.store import shard as shards
from master.store.optimizers import Bytes
from master.store.shard import Reading, Record
from master.store.store import Memory, Store
from tests.master.full_disk import full_disk
from tests.master.pushes import MIXED, creation, update

RUN = {"roster": {"incarnations": 3}, "counters": {"pushes": 2}}


def mixed_store() -> Store:
    """Shard with every kind of tensor, and bytes that count up."""
    store = Store(Memory())
    data = {spec.name: np.arange(np.prod(spec.shape, dtype=int)) for spec in MIXED.tensors}
    buffer = np.zeros(MIXED.nbytes, np.uint8)
    for name, array in MIXED.arrays(buffer.data).items():
        array[...] = data[name].reshape(array.shape)
    header = Header("1/weights", Operation.CREATE, incarnation=1, table=MIXED)
    store.create(header, [(0, memoryview(buffer.tobytes()))])
    return store


def one_shard(value: float = 0.0, count: int = 2) -> Store:
    store = Store(Memory())
    store.create(*creation(np.full(count, value)))
    return store


def contents(store: Store, name: str = "1/weights") -> bytes:
    reading = store.read(name)
    try:
        return bytes(reading.whole)
    finally:
        reading.release()


def put_back(store: Store, snapshot: Snapshot) -> None:
    for name in snapshot.shards:
        fill, room = snapshot.filler(name), snapshot.room(name)
        store.put_back(name, snapshot.table(name), room, snapshot.record(name), fill)


def damage(path: Path, position: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def test_a_snapshot_is_safetensors_by_the_tensors_names(tmp_path: Path) -> None:
    store = mixed_store()
    snapshot = Snapshots(tmp_path).take(store, RUN)
    loaded = safetensors.numpy.load_file(tmp_path / "1" / "1-weights.safetensors")
    reading = store.read("1/weights")
    expected = MIXED.arrays(reading.buffer)
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(loaded[name], array)
    assert snapshot.versions == {"1/weights": 0}


def test_what_was_taken_comes_back_to_the_bit_in_this_store_and_in_another(tmp_path: Path) -> None:
    store = mixed_store()
    before = contents(store)
    snapshot = Snapshots(tmp_path).take(store, RUN)
    zeros = [(0, memoryview(bytes(MIXED.nbytes)))]
    store.apply(Header("1/weights", Operation.UPDATE, 0, 1, 1, 10, MIXED), zeros)
    assert contents(store) != before
    other = Store(Memory())
    for each in (store, other):
        put_back(each, snapshot)
        assert contents(each) == before
        assert each.versions() == {"1/weights": 0}


def test_an_optimizers_state_comes_back_with_its_parameters(tmp_path: Path) -> None:
    store = Store(Memory())
    table = creation((1.0, 2.0))[0].table

    def fill(buffer: Bytes) -> None:
        buffer[:] = np.arange(len(buffer))

    store.put_back("1/weights", table, table.nbytes + 56, Record(version=7, steps=5), fill)
    snapshot = Snapshots(tmp_path).take(store, RUN)
    loaded = safetensors.numpy.load_file(tmp_path / "1" / "1-weights.safetensors")
    assert loaded[OPTIMIZER_STATE].tolist() == list(range(8, 64))
    other = Store(Memory())
    put_back(other, snapshot)
    assert contents(other) == bytes(range(64))
    assert snapshot.record("1/weights") == Record(version=7, steps=5)


def test_the_manifest_says_what_there_was(tmp_path: Path) -> None:
    store = one_shard()
    store.apply(*update((1.0, 1.0), 1, incarnation=4, next_batch=30))
    snapshot = Snapshots(tmp_path).take(store, RUN)
    said = json.loads((tmp_path / "1" / MANIFEST).read_text())
    assert (said["number"], said["run"]) == (1, RUN)
    assert said["shards"]["1/weights"]["record"]["sequences"] == {"4": 1}
    assert said["shards"]["1/weights"]["record"]["progress"] == {"0": 30}
    assert said["boot"]
    # Whoever it was is fenced before this is used.
    assert snapshot.record("1/weights").sequences == {}
    assert snapshot.nbytes == (tmp_path / "1" / "1-weights.safetensors").stat().st_size


def test_the_newest_few_and_the_first_are_kept_and_numbers_go_on(tmp_path: Path) -> None:
    """The first grows old, for a rollback by an hour."""
    store, snapshots = one_shard(), Snapshots(tmp_path)
    for _ in range(NEWEST + 2):
        snapshots.take(store, RUN)
    assert snapshots.numbers() == [1, 3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "4", "5"]
    with pytest.raises(NotFoundError, match=r"no snapshot 2; there are \[1, 3, 4, 5\]"):
        snapshots.get(2)


def test_snapshots_on_demand_push_out_no_periodic_one(tmp_path: Path) -> None:
    """Three pushes of 1e38 and three snapshots once spoilt every snapshot kept."""
    store, snapshots = one_shard(), Snapshots(tmp_path)
    snapshots.take(store, RUN)
    snapshots.take(store, RUN)
    for sequence in range(1, 6):
        store.apply(*update((1e38 * (-1) ** sequence, 0.0), sequence))
        snapshots.take(store, RUN, on_demand=True)
    assert snapshots.numbers() == [1, 2, 5, 6, 7]
    assert snapshots.get(2).versions == {"1/weights": 0}
    assert [snapshots.get(number).on_demand for number in (2, 7)] == [False, True]


def test_snapshots_are_kept_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, snapshots, now = one_shard(), Snapshots(tmp_path), 1e9
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(12):
        snapshots.take(store, RUN)
        now += HOUR / 4
    ages = [now - snapshots.get(number).time for number in snapshots.numbers()]
    assert any(HOUR <= age <= 2 * HOUR for age in ages)
    assert len(ages) < 12


def test_a_snapshot_that_a_rollback_needs_stays(tmp_path: Path) -> None:
    store, snapshots = one_shard(), Snapshots(tmp_path)
    for _ in range(NEWEST + 2):
        snapshots.take(store, RUN, on_demand=True, spare=1)
    assert snapshots.numbers() == [1, 3, 4, 5]


def test_what_a_crash_left_half_written_is_no_snapshot_and_goes(tmp_path: Path) -> None:
    for name in (".1.new", ".7.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1-weights.safetensors").write_bytes(b"half")
    snapshots = Snapshots(tmp_path)
    assert (snapshots.numbers(), snapshots.newest()) == ([], None)
    assert snapshots.take(one_shard(), RUN).number == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("1-weights.safetensors", lambda path: damage(path)),
        ("1-weights.safetensors", lambda path: damage(path, 3)),
        ("1-weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-4])),
        ("1-weights.safetensors", lambda path: path.unlink()),
        (MANIFEST, lambda path: damage(path, 40)),
        (MANIFEST, lambda path: path.write_text(path.read_text().replace('"version": 0', '"version": 9'))),
        (MANIFEST, lambda path: path.write_bytes(b"\xff\xfe")),
        (MANIFEST, lambda path: path.write_text("")),
        (MANIFEST, lambda path: path.write_text("[]")),
        (MANIFEST, lambda path: path.unlink()),
    ],
)
def test_a_damaged_file_is_named_and_the_newest_whole_snapshot_is_the_one_before(
    tmp_path: Path, name: str, harm: Callable[[Path], object]
) -> None:
    store, snapshots = one_shard(), Snapshots(tmp_path)
    for _ in range(2):
        snapshots.take(store, RUN)
    harm(tmp_path / "2" / name)
    newest, lines = snapshots.newest_whole()
    assert newest is not None
    assert newest.number == 1
    assert len(lines) == 1
    assert str(tmp_path / "2") in lines[0]
    assert name in lines[0]
    assert [bool(each.damage) for each in snapshots.list_all()] == [False, True]


def test_on_a_full_disk_no_snapshot_is_left_and_the_older_one_stays(tmp_path: Path) -> None:
    store, snapshots = one_shard(count=100_000), Snapshots(tmp_path)
    snapshots.take(store, RUN)
    with full_disk(1000), pytest.raises(RunFailedError, match=r"cannot be written: .*; free disk space"):
        snapshots.take(store, RUN)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    snapshots.get(1).check()


def test_pushes_go_on_while_a_snapshot_is_written_and_it_is_of_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push adds 1 to a million numbers: a mix of versions would hold several values."""
    monkeypatch.setattr(writing, "_PIECE_BYTES", 1 << 14)
    store, count = one_shard(count=1_000_000), 1_000_000
    enough, ones = threading.Event(), np.ones(count)

    def push() -> None:
        sequence = 0
        while not enough.is_set():
            sequence += 1
            store.apply(*update(ones, sequence))

    pushing = threading.Thread(target=push)
    pushing.start()
    try:
        for _ in range(5):
            snapshot = Snapshots(tmp_path).take(store, RUN)
            path = tmp_path / str(snapshot.number) / "1-weights.safetensors"
            (array,) = safetensors.numpy.load_file(path).values()
            assert set(np.unique(array)) == {float(snapshot.versions["1/weights"])}
    finally:
        enough.set()
        pushing.join()


def test_a_snapshot_that_pushes_revoke_again_and_again_has_them_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushes never wait for readers, and two pushes come between any two pieces."""
    monkeypatch.setattr(shards, "READER_SECONDS", 0.0)
    store, sequence, attempts = one_shard(count=8), 0, 0
    begin = writing._parts

    def interrupted(reading: Reading) -> object:
        nonlocal sequence, attempts
        attempts += 1
        for part in begin(reading):
            if attempts <= writing.ATTEMPTS:
                for _ in range(2):
                    sequence += 1
                    store.apply(*update(np.ones(8), sequence))
            yield part

    monkeypatch.setattr(writing, "_parts", interrupted)
    snapshot = Snapshots(tmp_path).take(store, RUN)
    assert attempts == writing.ATTEMPTS + 1
    (array,) = safetensors.numpy.load_file(tmp_path / "1" / "1-weights.safetensors").values()
    assert set(array) == {float(snapshot.versions["1/weights"])} == {float(sequence)}
    assert store.apply(*update(np.ones(8), sequence + 1)).applied


def test_a_tensor_with_the_name_of_the_moments_is_kept_beside_them(tmp_path: Path) -> None:
    table = lay_out([(OPTIMIZER_STATE, "float32", (2,), "parameter")])

    def fill(buffer: Bytes) -> None:
        buffer[:] = np.arange(len(buffer))

    store, other = Store(Memory()), Store(Memory())
    store.put_back("1/weights", table, table.nbytes + 24, Record(version=7), fill)
    put_back(other, Snapshots(tmp_path).take(store, RUN))
    assert contents(other) == bytes(range(32))


def test_a_snapshot_of_which_another_content_comes_back_is_no_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that loses a written byte is noticed at once, not at the rollback."""
    files = DiskFiles()
    snapshots, read = Snapshots(tmp_path, files), files.read

    def forgetful(path: Path, start: int = 0, nbytes: int = -1) -> bytes:
        data = read(path, start, nbytes)
        return data if path.name == MANIFEST else data[:-1] + b"?"

    monkeypatch.setattr(files, "read", forgetful)
    with pytest.raises(RunFailedError, match=r"1-weights.safetensors: is torn or damaged"):
        snapshots.take(one_shard(), RUN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["1-weights.safetensors", MANIFEST])
def test_a_folder_in_the_place_of_a_snapshots_file_is_damage(tmp_path: Path, name: str) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.take(one_shard(), RUN)
    (tmp_path / "1" / name).unlink()
    (tmp_path / "1" / name).mkdir()
    (each,) = snapshots.list_all()
    assert f"{tmp_path / '1' / name}: cannot be read: Is a directory" in each.damage


def test_strange_files_among_the_snapshots_stay_and_hold_nothing_up(tmp_path: Path) -> None:
    for name in (".DS_Store", ".7.old", "7"):
        (tmp_path / name).touch()
    snapshots = Snapshots(tmp_path)
    assert snapshots.take(one_shard(), RUN).number == 8
    assert [each.number for each in snapshots.list_all() if not each.damage] == [8]
    assert (tmp_path / ".DS_Store").exists()
