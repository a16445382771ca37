"""A small race from start to table: rows are kept, played once, and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import namespaces, race
from benchmarks.racing import picture, rows
from benchmarks.racing.course import Course
from common import strict_json
from common.errors import ConfigError, RefusedError


def _curve(low: float) -> list[list[float]]:
    return [[100 * i, float(i), 2 - (2 - low) * i / 8] for i in range(9)]


def _keep(out: Path, name: str, low: float = 0.0, turn: int = 1, **more: Any) -> None:
    way, _, place = name.partition("/")
    file = out / f"mlp-{turn}" / f"{way}--{place}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    row = {"curve": _curve(low), "fits": True, "seconds": 8.0, "examples_per_second": 100.0, "examples": 800}
    row |= {"bytes": 800, "peak_mib": {"rank-0": 100.0}, "wall_seconds": 9.0, **more}
    file.write_text(strict_json.encode(row))


def test_kept_rows_are_found_by_network_place_and_round(tmp_path: Path) -> None:
    for turn in (1, 2, 10):
        _keep(tmp_path, "one-thread/loopback", turn=turn)
    _keep(tmp_path, "delayed/loopback+kill", low=0.5)
    found = rows.kept_rows(tmp_path)
    assert list(found) == ["mlp"]
    assert len(found["mlp"]["loopback"]) == 3
    assert rows.target_of(found["mlp"]) == pytest.approx(0.5)
    said = rows.tables(tmp_path)
    assert "mlp, loopback, to a loss of 0.5000, rounds: 3" in said
    assert "mlp, loopback+kill" in said


def test_a_folder_without_rows_or_without_a_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no rows"):
        rows.tables(tmp_path)
    _keep(tmp_path, "delayed/100mbit")
    with pytest.raises(ConfigError, match="one-thread/loopback"):
        rows.tables(tmp_path)


def test_rows_of_another_size_are_not_mixed_in(tmp_path: Path) -> None:
    _keep(tmp_path, "one-thread/loopback", size={"batch_size": 3})
    with pytest.raises(ConfigError, match="another size"):
        race.main(
            ["--tiny", "--out", str(tmp_path), "--only", "one-thread/loopback", "--only", "ddp/loopback"]
        )


def test_a_race_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--mnist FOLDER"):
        race.main(["--out", str(tmp_path)])


def test_the_picture_has_the_row_of_the_median_and_the_places_that_are_there(tmp_path: Path) -> None:
    for turn, low in enumerate((0.1, 0.3, 0.2), 1):
        _keep(tmp_path, "one-thread/loopback", turn=turn)
        for way in ("delayed", "ddp"):
            _keep(tmp_path, f"{way}/loopback+kill", low=low, turn=turn)
    places = rows.kept_rows(tmp_path)["mlp"]
    middle = picture.middle(places["loopback+kill"], "delayed", 0.5)
    assert middle is not None
    assert middle["curve"][-1][2] == pytest.approx(0.2)
    assert picture.middle(places["loopback+kill"], "update", 0.5) is None
    race.main(["--out", str(tmp_path), "--figure", str(tmp_path / "race.png")])
    assert (tmp_path / "race-mlp.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="no rows"):
        picture.draw(tmp_path / "none.png", {"loopback": places["loopback"]})


def test_a_row_is_killed_once_and_its_clock_starts_once(tmp_path: Path) -> None:
    course = Course(tmp_path, 10)
    assert course.began() is None
    assert course.progress() == []
    course.begin(5.0)
    course.begin(9.0)
    assert course.began() == 5.0
    assert course.strike()
    assert course.struck
    assert not course.strike()


@pytest.mark.slow
def test_a_small_race_is_played_once_and_in_the_bounds_of_one_thread(tmp_path: Path) -> None:
    try:
        namespaces.check()
        shaped = ["--only", "delayed/1gbit"]
    except RefusedError:
        shaped = []
    words = ["--tiny", "--out", str(tmp_path), "--rounds", "1", "--only", "asyncpp-2/loopback", *shaped]
    race.main(words)
    found = rows.kept_rows(tmp_path)["mlp"]
    one, late = found["loopback"][0]["one-thread"], found["loopback"][0]["asyncpp-2"]
    for row in (one, late):
        assert row["examples_per_second"] > 0
        assert row["curve"][-1][2] < row["curve"][0][2]
        assert min(row["peak_mib"].values()) > 50
    # Equal starts.
    assert one["curve"][0] == late["curve"][0]
    assert one["examples"] == 80 * 64
    if shaped:
        ours = found["1gbit"][0]["delayed"]
        assert ours["curve"][0] == one["curve"][0]
        # h and delta of 32 units, a byte each.
        assert ours["bytes"] > 2 * 32 * ours["examples"]
        assert set(ours["peak_mib"]) == {"master-0", "slave-1", "slave-2"}
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
    race.main(words)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")} == before
    assert json.loads(next(iter(before)).read_text())["fits"]
