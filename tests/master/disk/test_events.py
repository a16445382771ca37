"""master.disk.events: bounded files, read back over a rotation, and written by another thread in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from master.disk import events
from master.disk.events import MOST_WAITING, OLDER
from master.disk.state import StateDirectory

BYTES = 2_000


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDirectory]:
    """A directory whose event files are short."""
    monkeypatch.setattr(events, "MOST_BYTES", BYTES)
    directory = StateDirectory(tmp_path)
    yield directory
    directory.close()


def kept(folder: Path) -> list[int]:
    """Numbers of the events in every file, oldest first."""
    files = [folder / f"events.{number}.jsonl" for number in range(OLDER, 0, -1)] + [folder / "events.jsonl"]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [json.loads(line)["number"] for line in lines]


def test_the_log_is_bounded_and_keeps_the_newest_events_in_order(state: StateDirectory) -> None:
    for number in range(500):
        state.log({"event": "evaluated", "number": number})
    state.close()
    numbers = kept(state.path)
    assert numbers == list(range(numbers[0], 500))
    assert 0 < numbers[0] < 450
    sizes = [file.stat().st_size for file in state.path.glob("events*.jsonl")]
    assert len(sizes) == OLDER + 1
    assert max(sizes) <= BYTES


def test_a_start_reads_the_events_of_the_file_before(state: StateDirectory) -> None:
    number = 0
    while not (state.path / "events.1.jsonl").exists():
        state.log({"event": "evaluated", "number": number})
        state.writer.submit(bool).result()
        number += 1
    state.close()
    again = StateDirectory(state.path)
    assert [event["number"] for event in again.recent] == list(range(number))
    again.close()


def test_a_torn_line_spoils_no_later_one(state: StateDirectory) -> None:
    state.close()
    (state.path / "events.jsonl").write_text('{"event": "tor')
    again = StateDirectory(state.path)
    again.log({"event": "evaluated", "number": 7})
    again.close()
    assert (state.path / "events.jsonl").read_text().splitlines()[1].endswith('"number": 7}')


def test_a_disk_that_stands_still_holds_nobody_up_and_takes_no_memory_without_bound(
    state: StateDirectory,
) -> None:
    disk = threading.Event()
    state.writer.submit(disk.wait)
    for number in range(3 * MOST_WAITING):
        state.log({"event": "evaluated", "number": number})
    assert len(state._events._waiting) == MOST_WAITING
    disk.set()
    state.close()
    assert kept(state.path)[-1] == 3 * MOST_WAITING - 1
