"""Acknowledged pushes survive a crash, and damage is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import RefusedError, RunFailedError
from common.shards.pushes import Header, Operation
from master.disk.mapped import CHECKSUM, MAGIC, RECORD_BYTES
from master.disk.state import StateDirectory, seal, unseal
from master.store.shard import BufferPair, Record
from master.store.store import Store
from tests.master.full_disk import full_disk
from tests.master.pushes import MIXED, PARTLY_FROZEN, creation, parameters, update

ROOT = Path(__file__).parents[3]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    directory = StateDirectory(tmp_path)
    yield directory
    directory.close()


def contents(store: Store, shard: str = "1/weights") -> tuple[int, list[float]]:
    reading = store.read(shard)
    try:
        return reading.header.version, np.frombuffer(reading.buffer, np.float32).tolist()
    finally:
        reading.release()


def pushed(state: StateDirectory, times: int) -> Store:
    """Shard of two numbers, after a number of pushes of 1."""
    store = Store(state)
    store.create(*creation((0.0, 0.0)))
    for sequence in range(1, times + 1):
        store.apply(*update((1.0, 1.0), sequence, next_batch=10 * sequence))
    return store


def shard_file(state: StateDirectory) -> Path:
    return state.path / "shards" / "1-weights.shard"


def overwrite(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def record_at(index: int) -> int:
    """Offset of a commit record; the preamble of a small table is a page."""
    return 4096 + index * RECORD_BYTES


# --- restarts ---------------------------------------------------------------------------------------------


def test_shards_come_back_with_version_contents_and_sequences(state: StateDirectory) -> None:
    pushed(state, 3)
    again = Store(state)
    assert contents(again) == (3, [3.0, 3.0])
    assert again.next_batch("1/weights") == 30
    assert not again.apply(*update((1.0, 1.0), 3)).applied
    assert again.apply(*update((1.0, 1.0), 4)).version == 4


def test_frozen_tensors_come_back_after_a_restart_at_any_version(state: StateDirectory) -> None:
    store, data = Store(state), np.ones(PARTLY_FROZEN.nbytes, np.uint8)
    first = Header("1/weights", Operation.CREATE, incarnation=1, table=PARTLY_FROZEN)
    store.create(first, [(0, data.data)])
    pushed = replace(first, operation=Operation.UPDATE)
    for sequence in (1, 2, 3):
        store = Store(state)
        store.apply(replace(pushed, sequence=sequence), [(0, memoryview(bytes(pushed.nbytes)))])
        reading = Store(state).read("1/weights")
        assert reading.header.version == sequence
        arrays = PARTLY_FROZEN.arrays(reading.buffer)
        assert {arrays[name].tobytes() for name in ("fixed", "mask")} == {b"\1" * 16, b"\1" * 3}


def test_every_kind_of_table_comes_back_equal(state: StateDirectory) -> None:
    for name, table in (("1/weights", MIXED), ("2/weights", parameters(0)), ("3/input", parameters(5000))):
        state.create(name, table).commit(Record())
    assert {name: slots.table for name, slots in state.load().items()} == {
        "1/weights": MIXED, "2/weights": parameters(0), "3/input": parameters(5000),
    }  # fmt: skip


def test_a_shard_that_was_never_committed_does_not_exist(state: StateDirectory) -> None:
    state.create("1/weights", parameters(2))
    assert state.load() == {}
    assert contents(pushed(state, 1)) == (1, [1.0, 1.0])


def test_a_crash_while_a_shards_file_is_made_leaves_no_shard_and_no_error(state: StateDirectory) -> None:
    for text in (b"", MAGIC, MAGIC + b"\1\2\3"):
        (state.path / "shards" / "1-weights.new").write_bytes(text)
        assert Store(state).versions() == {}
    assert contents(pushed(state, 1)) == (1, [1.0, 1.0])


def test_what_a_crashed_push_left_in_the_idle_buffer_does_not_count(state: StateDirectory) -> None:
    pushed(state, 2)
    slots = state.load()["1/weights"]
    slots.buffers[1 - slots.record.active][:] = 255
    again = Store(state)
    assert contents(again) == (2, [2.0, 2.0])
    again.apply(*update((1.0, 1.0), 3))
    assert contents(again) == (3, [3.0, 3.0])


# --- torn records -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [3, 4])
@pytest.mark.parametrize("torn", [0, 3, 8, 12, 40])
def test_a_torn_newest_record_leaves_the_one_before(state: StateDirectory, times: int, torn: int) -> None:
    """State after a kill in the middle of a commit: the idle buffer is written, the record half."""
    pushed(state, times)
    newest = (times + 1) % 2  # The create's commit is the first.
    overwrite(shard_file(state), record_at(newest) + torn, b"\xff" * 32)
    again = Store(state)
    assert contents(again) == (times - 1, [times - 1.0] * 2)
    assert again.apply(*update((1.0, 1.0), times)).applied
    assert contents(Store(state)) == (times, [float(times)] * 2)


def test_a_torn_first_record_is_a_shard_that_was_never_there(state: StateDirectory) -> None:
    pushed(state, 0)
    overwrite(shard_file(state), record_at(1) + 4, b"\xff" * 8)
    assert Store(state).versions() == {}


def test_two_torn_records_are_damage_and_not_a_new_shard(state: StateDirectory) -> None:
    pushed(state, 5)
    for index in (0, 1):
        overwrite(shard_file(state), record_at(index) + 10, b"\xff" * 8)
    with pytest.raises(RunFailedError, match="both records are torn"):
        Store(state)


def test_a_record_that_does_not_fit_is_refused_and_the_present_one_stays(state: StateDirectory) -> None:
    pushed(state, 2)
    slots = state.load()["1/weights"]
    crowd = Record(3, 1 - slots.record.active, {0: 30}, dict.fromkeys(range(10**9, 10**9 + 9000), 10**9))
    for _ in range(2):
        with pytest.raises(RunFailedError, match="too many"):
            slots.commit(crowd)
    assert slots.record.version == 2
    slots.commit(Record(3, slots.record.active, {0: 30}, {1: 3}))
    overwrite(shard_file(state), record_at(4 % 2), b"\xff" * 32)
    assert state.load()["1/weights"].record.version == 2


# --- torn files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "said"),
    [
        (0, "is no shard"),
        (len(MAGIC), "the table is torn"),
        (len(MAGIC) + 4, "the table is torn"),
        (len(MAGIC) + CHECKSUM.size + 5, "the table is torn"),
    ],
)
def test_a_torn_preamble_is_named(state: StateDirectory, position: int, said: str) -> None:
    pushed(state, 1)
    overwrite(shard_file(state), position, b"\xee\xee\xee\xee")
    with pytest.raises(RunFailedError, match=f"1-weights.shard: {said}"):
        Store(state)


@pytest.mark.parametrize("left", [0, 10, 4096, 4096 + RECORD_BYTES, -4096, -1])
def test_a_truncated_file_is_named_and_not_filled_up_with_zeros(state: StateDirectory, left: int) -> None:
    pushed(state, 1)
    size = shard_file(state).stat().st_size
    os.truncate(shard_file(state), left if left >= 0 else size + left)
    with pytest.raises(RunFailedError, match=r"1-weights\.shard: "):
        Store(state)


# --- kill -9 ----------------------------------------------------------------------------------------------

PUSHING = textwrap.dedent("""
    import sys
    from pathlib import Path
    import numpy as np
    from master.disk.state import StateDirectory
    from master.store.store import Store
    from tests.master.pushes import creation, update

    count = 20_000
    store = Store(StateDirectory(Path(sys.argv[1])))
    store.create(*creation(np.zeros(count)))
    version = store.versions()["1/weights"]
    ones = np.ones(count)
    while True:
        version = store.apply(*update(ones, version + 1)).version
        print(version, flush=True)
""")


def test_after_kill_9_every_acknowledged_push_is_there_once_and_whole(tmp_path: Path) -> None:
    """Three processes are killed in a row while pushing; the next always goes on from the last commit."""
    acknowledged = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", PUSHING, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert child.stdout is not None
        for _ in range(100):
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split("\n")[:-1]
        child.wait()
        child.stdout.close()
        acknowledged = int(rest[-1]) if rest else acknowledged
        state = StateDirectory(tmp_path)
        version, numbers = contents(Store(state))
        state.close()
        assert version in (acknowledged, acknowledged + 1)
        assert set(numbers) == {float(version)}
    assert acknowledged >= 300


# --- the directory ----------------------------------------------------------------------------------------


def test_a_second_master_on_the_same_folder_is_refused_until_the_first_goes(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path)
    with pytest.raises(RefusedError, match="another master is using this state directory"):
        StateDirectory(tmp_path)
    first.close()
    StateDirectory(tmp_path).close()


def test_a_second_process_on_the_same_folder_is_refused(state: StateDirectory) -> None:
    code = (
        "import sys; from pathlib import Path; from master.disk.state import StateDirectory;"
        "StateDirectory(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(state.path)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert child.returncode != 0
    assert "another master is using" in child.stderr


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RefusedError, match="cannot be used as a state directory"):
            StateDirectory(path)


def test_a_small_file_is_replaced_whole(state: StateDirectory) -> None:
    assert state.read("roster.json") is None
    for value in ({"a": 1}, {"b": [1, 2], "c": {3: 4.5}}):
        state.write("roster.json", seal(value))
        text = state.read("roster.json") or ""
        assert unseal(text, state.path) == json.loads(json.dumps(value))
    state.write("config.toml", "text = 'ü'")
    assert state.read("config.toml") == "text = 'ü'"


# --- a full disk ------------------------------------------------------------------------------------------


def test_on_a_full_disk_a_shard_is_refused_and_leaves_nothing(state: StateDirectory) -> None:
    store = Store(state)
    with full_disk(1 << 20), pytest.raises(RunFailedError, match="no room for the shard"):
        store.create(*creation(np.zeros(1_000_000)))
    assert list((state.path / "shards").iterdir()) == []
    assert store.versions() == {}
    assert store.create(*creation((0.0, 0.0))).applied


def test_room_for_every_push_is_taken_when_a_shard_is_created(state: StateDirectory) -> None:
    store = pushed(state, 1)
    with full_disk():
        for sequence in range(2, 6):
            assert store.apply(*update((1.0, 1.0), sequence)).applied
    assert contents(Store(state)) == (5, [5.0, 5.0])
    allotted = shard_file(state).stat()
    assert allotted.st_blocks * 512 >= allotted.st_size


def test_on_a_full_disk_a_small_file_keeps_its_old_text(state: StateDirectory) -> None:
    state.write("roster.json", "a")
    with full_disk(), pytest.raises(RunFailedError, match=r"roster.json: cannot be written: .*; free disk"):
        state.write("roster.json", "b")
    assert state.read("roster.json") == "a"


def test_on_a_full_disk_the_run_goes_on_without_its_log(state: StateDirectory) -> None:
    state.log({"event": "before"})
    state.writer.submit(bool).result()
    with full_disk():
        state.log({"event": "lost"})
        state.writer.submit(bool).result()
    state.log({"event": "after"})
    state.close()
    events = [json.loads(line)["event"] for line in (state.path / "events.jsonl").read_text().splitlines()]
    assert (events[0], events[-1]) == ("before", "after")


def test_slots_of_files_are_slots(state: StateDirectory) -> None:
    slots: BufferPair = state.create("1/weights", parameters(3))
    assert [buffer.nbytes for buffer in slots.buffers] == [12, 12]
    assert not np.shares_memory(*slots.buffers)
